"""What third-party agents need to play textgym's environments well: a page for each library is in docs/."""
