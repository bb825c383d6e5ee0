"""Makes ``atmr/Dispatch-v1`` known to Gymnasium.

Where the project is installed, ``import gymnasium`` is enough (`gymnasium_startup`). Elsewhere
import this module, or let Gymnasium do it: ``make("services.rl.registration:atmr/Dispatch-v1")``.
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
