"""A shop whose truth is known: shoppers who want what they really bought next, and look, click, buy and report as shoppers do.

It imports no model and nothing of the service: it meets a recommender only through questions and answers. docs/simulator.md
says what is assumed, and where each constant comes from.
"""
