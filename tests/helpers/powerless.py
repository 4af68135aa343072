"""Child processes that obey file permissions even if the tests run as root, as in containers."""

import ctypes

_PR_CAPBSET_DROP = 24
_CAPABILITIES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


def powerless() -> None:
    """For `preexec_fn`: make root obey file permissions; other users do so anyway."""
    libc = ctypes.CDLL(None)
    for capability in _CAPABILITIES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
