"""How a mistake ends: in one line that tells it."""


def check_told(capture, *parts):
    """One line of an error says all of these, and nothing else is printed."""
    out, err = capture.readouterr()
    assert out == "" and err.startswith("error: ") and err.endswith("\n"), (out, err)
    assert err.count("\n") == 1 and all(part in err for part in parts), err
