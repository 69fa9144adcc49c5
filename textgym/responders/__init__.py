"""Who answers when the agent hands over: pure functions of the dialogue, its prompt and one lot a turn.

    words = WordTokenizer([*map(str, range(100)), *"the price is and together , + = so".split()])
    prompts = [Prompt("the price is 12 and 7 , together", reference="so 19")]
    env = gym.make("TextGen-v0", prompts=prompts, tokenizer=words, scorer="final_answer", responder="calculator", max_response_tokens=4)

The agent that writes `12 + 7 =` reads `19` in its next observation, and is paid for `so 19`: what it says after the last answer.
`suite.slot_filling` is a task with a simulated user, `toy.guess_number` one whose best policy is known to be binary search.

A responder of your own names the tokens that hand over (`end_of_turn`, each one token of the tokenizer) and gives an `Answer` to each
dialogue that waits. One that decides nothing by chance says `draws_lots = False`: then its dialogues can be enumerated (`oracle.from_core`).
"""

from .calculator import Calculator
from .registry import RESPONDERS, make, names, register
from .user_simulator import UserSimulator

__all__ = ["RESPONDERS", "Calculator", "UserSimulator", "make", "names", "register"]
