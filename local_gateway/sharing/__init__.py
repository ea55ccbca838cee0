"""Answers that several requests share: single-flight and kept responses. Of routing it knows AnswerSource alone."""
