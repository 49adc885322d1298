"""Other simulators of federated learning, each as its documentation writes FedAvg.

Every file is a program of its own, run by the interpreter that holds that simulator; none imports
anything of ours. `python FILE DATA.npz ROUNDS WORKERS` prints one line of JSON when a round has
ended ({"round": 3, "at": seconds}, by the monotonic clock) and last {"accuracy": 0.95}, on the test
digits.

All learn the same: 2NN from the same weights, 100 devices of 600 digits each, ten a round, one
epoch in batches of ten, SGD at 0.1, sums weighted by examples; nothing is evaluated between rounds.
These hand float32 arrays over; ours codes each update with the default codec, as a real fleet does.
"""
