"""What an attacker's pickle would hold."""

import os


class Harmful:
    """Makes the folder "ran" when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)
