"""The demo's classifier with its policies, and texts whose answers are known."""

from earmark import REPOSITORY
from earmark.policy.policies import load_policies
from earmark.settings import ClassifySettings

BASE = REPOSITORY / "demo" / "models" / "gemma-demo"
ADAPTER = REPOSITORY / "demo" / "models" / "cope-demo"
SETTINGS = ClassifySettings(
    model=str(BASE),
    adapter=str(ADAPTER),
    device="cpu",
    quantization=None,
    dtype="float32",
    batch_size=4,
)
POLICIES = load_policies(
    REPOSITORY / "config" / "policies", ["harassment", "scams", "violent-threats"]
)
SCAM = "please send me your bank password today"
THREAT = "i will hurt you tonight"
BENIGN = "the park is very quiet this morning"
