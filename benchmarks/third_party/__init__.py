"""Other people's agents, trained on textgym's environments: one script a library, and one command for the table."""
