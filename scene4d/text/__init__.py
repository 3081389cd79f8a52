"""What is to be done, in words: a task's text taken apart into phrases, and as the vector that models are given."""
