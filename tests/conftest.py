"""What every test may rely on."""

import signal

# A shell that runs something in the background has it ignore Ctrl-C, and its children inherit that; some tests are about Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
