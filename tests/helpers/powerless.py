"""A child process for which file permissions count even where the tests run as root, as in most containers."""

import ctypes

_PR_CAPBSET_DROP = 24
_CAPABILITIES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def powerless() -> None:
    """For `preexec_fn`: what is executed next may not write what its permissions forbid. Does nothing for other users."""
    libc = ctypes.CDLL(None)
    for capability in _CAPABILITIES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
