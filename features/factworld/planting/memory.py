"""The memory that planting takes, estimated before it starts."""

from __future__ import annotations

from features.factworld.planting.training import Course, trained_parameters
from sae_train.machine.memory import require_memory

LOGITS_HELD = 4  # copies of a batch's logits at a time: themselves, log-softmax, gradient, the base's
ADAM = 3  # numbers for each trained one: its gradient and two moments


def planting_bytes(course: Course, *, n_models: int) -> int:
    """Return the bytes that planting takes beside the base: float32 copies, optimizer, logits of the largest batch.

    Args:
        course: What is taught.
        n_models: Models that are taught one after the other and kept: 2 with a twin.
    """
    model, config = course.base.model, course.config
    held = list(model.parameters())
    if config.train == "lora":
        n_trained = sum(config.lora_rank * sum(p.shape) for p in held if p.ndim == 2)
    else:
        n_trained = sum(p.numel() for p in trained_parameters(course.base, config.train).values())
    taught = max(sum(len(lesson.ids) for lesson in course.taught_at(step)) for step in range(course.n_steps))
    general = config.general_windows * max(map(len, course.windows))
    vocabulary = len(course.base.tokenizer)
    numbers = n_models * sum(p.numel() for p in held) + ADAM * n_trained
    return 4 * (numbers + LOGITS_HELD * vocabulary * max(taught, general))


def check_memory(course: Course, *, n_models: int) -> None:
    """Refuse what does not fit.

    Raises:
        MemoryShortError: Less memory is free than planting takes.
    """
    needed = planting_bytes(course, n_models=n_models)
    try_ = "`train`=lora, or a smaller `batch_docs`"
    require_memory(needed, course.base.device, what="to plant a world in this model", try_=try_)
