"""Other people's agents on our environments, used as their own documentation says."""
