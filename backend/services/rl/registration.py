"""Makes ``atmr/Dispatch-v1`` known to Gymnasium.

Any of these registers it: importing this module, ``gymnasium.make("services.rl.registration:atmr/
Dispatch-v1")``, or the package's entry point (see ``gymnasium_entry_points``).
"""

import gymnasium

ENVIRONMENT_ID = "atmr/Dispatch-v1"


def register_environments() -> None:
    """Register our environments with Gymnasium; doing it again changes nothing.

    There is no time limit: the environment ends its own days.
    """
    if ENVIRONMENT_ID not in gymnasium.registry:
        gymnasium.register(
            ENVIRONMENT_ID,
            entry_point="services.rl.dispatch_env:DispatchEnv",
            vector_entry_point="services.rl.dispatch_vector_env:DispatchVectorEnv",
        )


register_environments()
