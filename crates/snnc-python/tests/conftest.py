import importlib.util


def pytest_ignore_collect(collection_path, config):
    """Live comparisons need PyTorch; `.ci/python` installs it."""
    if collection_path.name == "test_torch.py" and importlib.util.find_spec("torch") is None:
        return True


def pytest_report_header(config):
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed: test_torch.py is SKIPPED (see .ci/python)"
