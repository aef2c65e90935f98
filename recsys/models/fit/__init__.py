"""What fits models: one file per family; each recommender is a frozen set of hyper-parameters with `fit`.

Never imported by the service: implicit, scipy and numba live here.
"""
