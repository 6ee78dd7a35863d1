"""What holds for every test: how many examples a property is tried with."""

from hypothesis import HealthCheck, settings

# No deadline: two tests may share a core with a build, and a slow machine proves nothing.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile(
    "soak", parent=settings.get_profile("default"), max_examples=20_000, print_blob=True
)
settings.load_profile("default")
