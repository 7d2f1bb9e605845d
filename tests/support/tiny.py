"""The smallest run there is: flags that make any task finish in seconds."""

FLAGS = [
    *("--rssm.hidden=16", "--rssm.deter=16", "--rssm.stoch=4", "--rssm.discrete=4"),
    *(r"--.*\.cnn_depth=4", r"--.*\.mlp_layers=16", r"--.*\.layers=1", r"--.*\.units=16"),
    *("--dataset.batch=4", "--dataset.length=10", "--imag_horizon=4", "--jit=False"),
    *("--replay.minlen=10", "--replay.maxlen=10", "--time_limit=30"),
    *("--prefill=40", "--pretrain=1", "--train_every=10", "--log_every=20", "--eval_every=40"),
    "--steps=60",
]
