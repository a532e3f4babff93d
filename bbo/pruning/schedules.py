"""How much is removed after each of several iterations."""


def removed_after(final: float, iterations: int, schedule: str = "cubic") -> list[float]:
    """The share that is removed after each of several iterations.

    Args:
      final: after the last one, in [0, 1).
      iterations: how many.
      schedule: ``cubic``: much at first, little at the end (Zhu and Gupta 2017, arXiv 1710.01878,
        equation 1); ``linear``; ``geometric``: the same share of what is left each time (Frankle
        and Carbin 2019, arXiv 1803.03635).

    >>> removed_after(0.8, 2)
    [0.7, 0.8]
    >>> removed_after(0.75, 2, "geometric"), removed_after(0.9, 3, "linear")
    ([0.5, 0.75], [0.3, 0.6, 0.9])
    """
    shares = {
        "cubic": lambda done: final * (1 - (1 - done) ** 3),
        "linear": lambda done: final * done,
        "geometric": lambda done: 1 - (1 - final) ** done,
    }
    share = shares[schedule]
    return [
        round(share(step / iterations), 4) if step < iterations else final
        for step in range(1, iterations + 1)
    ]
