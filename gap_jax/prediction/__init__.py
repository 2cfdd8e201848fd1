"""Answers about single images: classes with probabilities, attention maps and joints."""
