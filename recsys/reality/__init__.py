"""What the whole system does when shoppers meet it: experiments in the real service against shoppers whose truth is known.

A composition root beside `recsys.cli`: these two alone import service and pipelines.
"""
