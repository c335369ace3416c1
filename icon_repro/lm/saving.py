"""What has to be right of a model before it is saved: settings of generation that transformers refuses to write.

In: a model as it was loaded.  Out: the same, with settings that can be saved.
Published models have temperature and top_p without do_sample (Llama 2): transformers warns when it reads them, and once
anything in the settings was changed (a trainer sets the pad token) refuses at ``save_pretrained``, after a training.
"""

from transformers import GenerationConfig, PreTrainedModel

from icon_repro.data.model_files import ModelError
from icon_repro.engine.console import LOG

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


def make_savable(model: PreTrainedModel, name: str) -> None:
    """Take settings of sampling away that do nothing, as the model doesn't sample; greedy decoding stays greedy.

    Raises:
        ModelError: the settings can't be saved for another reason.
    """
    settings = getattr(model, "generation_config", None)
    if settings is None or not _problem(settings):
        return
    if not settings.do_sample:
        default = GenerationConfig()
        named = [key for key in _SAMPLING if getattr(settings, key, None) != getattr(default, key, None)]
        for key in named:
            setattr(settings, key, getattr(default, key))
        LOG.warning(
            "%s", f"{name}: generation_config.json sets {', '.join(named)} without do_sample; they are left out."
        )
    if problem := _problem(settings):
        raise ModelError(
            f"{name}: its generation_config.json can't be saved with a tuned model ({problem}). Correct or remove it "
            "in a copy of the model, with model.kind=local."
        )


def _problem(settings: GenerationConfig) -> str | None:
    try:
        settings.validate(strict=True)
    except ValueError as error:
        return " ".join(str(error).split())[:300]
    return None
