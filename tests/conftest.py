"""Settings of the whole suite."""

from hypothesis import settings

# No deadline, since on a shared machine a slow moment is not a fault; the same examples every time, since a stranger's
# first run must not fail by chance.
settings.register_profile("inscape", deadline=None, derandomize=True)
settings.load_profile("inscape")
