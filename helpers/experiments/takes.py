"""Which models a notebook takes: one sentence where the one at hand will not do, before anything is computed."""

from helpers.capture import adapter_of, attention_modules, is_causal
from helpers.experiments.study import StudyError
from helpers.settings import message


def takes(model, *, causal=False, plain=False, layers=1):
    """Go on if the notebook takes this model; else `StudyError`, which Jupyter shows without a traceback.

    Args:
        model: from `load_model`.
        causal: whether a token may see only what stands before it, and the next token must be predicted.
        plain: whether Q and K may pass through a rotary step at most on their way to softmax(QKᵀ/√d).
        layers: how many the model must have.
    """
    unfit = len(attention_modules(model)) < layers
    unfit |= causal and not (is_causal(model) and model.get_output_embeddings() is not None)
    if unfit or (plain and adapter_of(model).between not in ("nothing", "rotary")):
        kinds = {"causal": causal, "layers": layers > 1, "plain": plain}
        needed = {kind: message(f"takes_{kind}", n=layers) if needs else "" for kind, needs in kinds.items()}
        raise StudyError(message("takes_another", came=model.provenance, **needed))
