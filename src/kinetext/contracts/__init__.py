"""What every component promises, as checks that run: for ours in the tests, for yours in your own.

In the manner of scikit-learn's ``estimator_checks``: build the component at a small size, hand it to
its check, and read what the ``ContractError`` says. A check changes nothing, neither the component nor
the global random state.

    from kinetext.contracts import check_encoder
    check_encoder(MyEncoder())
"""

from kinetext.contracts.data import check_dataset
from kinetext.contracts.features import check_encoder, check_fusion
from kinetext.contracts.generation import check_codec, check_generator
from kinetext.contracts.promises import ContractError
from kinetext.contracts.tasks import check_task

__all__ = [
    "ContractError",
    "check_codec",
    "check_dataset",
    "check_encoder",
    "check_fusion",
    "check_generator",
    "check_task",
]
