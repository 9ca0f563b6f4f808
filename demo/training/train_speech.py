"""Train the demo's speech model and write it as a CTranslate2 folder.

    python -m demo.training.train_speech

Run from the repository's root; takes about half an hour on two cores.  Interrupted, it
goes on from its last checkpoint; remove the folder of checkpoints to begin anew.

Beside the decoder's cross-entropy two losses tell the model *where* each word is, which
the speech synthesis knows: each encoder frame names the word that sounds in it, and two
heads of the decoder's cross-attention must look at the word that comes next.  Without
them a model this small needs hours to find its way through a window of many sentences.
"""

import argparse
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import WhisperForConditionalGeneration

from demo.training import sentences, speech_data, speech_model

DEMO = Path(__file__).resolve().parent.parent
WORK = DEMO / "training" / ".work" / "speech"
MODEL = DEMO / "models" / "whisper-demo"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """A stretch of training on windows of one length.

    The learning rate falls linearly from ``rate`` to ``final_rate`` times that.  The first
    ``frozen_layers`` layers of the encoder, if any, and what precedes them stay as they are.
    """

    name: str
    steps: int
    batch: int
    seconds: int
    rate: float
    final_rate: float
    frozen_layers: int = 0


#: First cheap short windows that stand anywhere in the 30 s, then full ones.  By then the
#: lower encoder layers hear well, and what remains is to find the way through many
#: sentences: freezing them makes a step a third cheaper.
PHASES = (
    Phase("short", steps=500, batch=32, seconds=6, rate=2e-3, final_rate=0.5),
    Phase("long", steps=400, batch=8, seconds=30, rate=1e-3, final_rate=0.7),
    Phase("march", steps=1200, batch=8, seconds=30, rate=8e-4, final_rate=0.01, frozen_layers=2),
)
WARM_UP_STEPS = 80
FRAME_WEIGHT = 1.0
GUIDE_WEIGHT = 0.5
#: Heads of each decoder layer whose attention is supervised, and by how many frames of
#: 20 ms it may miss a word.
GUIDED_HEADS = 2
GUIDE_MARGIN = 3
CHECKPOINT_STEPS = 100
REPORT_STEPS = 20


class Trainee(torch.nn.Module):
    """The model with the head that names the word of each encoder frame.

    The head serves the training alone.  Its class 0 is "no word": id 0 is a byte, which
    no word of the demo consists of.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model: WhisperForConditionalGeneration = speech_model.build_model(tokenizer)
        text_tokens = tokenizer.token_to_id(speech_model.END)
        self.frame_head = torch.nn.Linear(speech_model.WIDTH, text_tokens)

    def losses(self, batch: speech_data.Batch, frozen_layers: int = 0) -> dict[str, torch.Tensor]:
        """The three losses of a batch, and the share of targets that were hit."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden = speech_model.encode(self.model, batch.features, batch.offsets, frozen_layers)
            decoded = self.model.model.decoder(
                input_ids=batch.inputs,
                encoder_hidden_states=hidden,
                use_cache=False,
                output_attentions=True,
            )
            logits = self.model.proj_out(decoded.last_hidden_state)
            frame_logits = self.frame_head(hidden)
        logits, targets = logits.float().flatten(0, 1), batch.targets.flatten()
        counted = targets != speech_data.IGNORED
        return {
            "text": functional.cross_entropy(logits, targets, ignore_index=speech_data.IGNORED),
            "frame": functional.cross_entropy(
                frame_logits.float().flatten(0, 1), batch.frames.flatten()
            ),
            "guide": guide_loss(decoded.cross_attentions, batch.spans),
            "accuracy": (logits.argmax(-1) == targets)[counted].float().mean(),
        }


def guide_loss(attentions: tuple[torch.Tensor, ...], spans: torch.Tensor) -> torch.Tensor:
    """How far the guided heads look past the words they should.

    The last layer must look at the word to say next; the layers before it may look
    anywhere from the word said last, which is how they find out where to go on.

    Args:
        attentions: Cross-attention of each decoder layer (batch, heads, length, frames).
        spans: `Batch.spans`.

    Returns:
        Mean of -log of the attention within a word's span, a scalar.
    """
    guided = spans[..., 0] >= 0
    first, last = spans[..., 0] - GUIDE_MARGIN, spans[..., 1] + GUIDE_MARGIN
    previous = torch.where(guided.roll(1, dims=1), first.roll(1, dims=1), first)
    frame = torch.arange(attentions[0].shape[-1])
    loss = torch.zeros(())
    for layer, attention in enumerate(attentions):
        start = first if layer == len(attentions) - 1 else previous
        inside = (frame >= start[..., None]) & (frame <= last[..., None])
        looked = attention[:, :GUIDED_HEADS].float().mean(1)
        mass = (looked * inside).sum(-1)[guided]
        loss = loss - torch.log(mass + 1e-5).sum() / max(1, int(guided.sum()))
    return loss / len(attentions)


def learning_rate(phase: Phase, step: int, warm_up: bool) -> float:
    """The rate at a step of a phase."""
    rate = phase.rate * (1 - (1 - phase.final_rate) * step / phase.steps)
    return rate * min(1.0, (step + 1) / WARM_UP_STEPS) if warm_up else rate


def train(
    trainee: Trainee, bank: dict[str, list[speech_data.Utterance]], tokenizer: Tokenizer, work: Path
) -> None:
    """Run the phases, from the last checkpoint in ``work`` if there is one."""
    checkpoint = work / "checkpoint.pt"
    parameters = [each for each in trainee.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
        logger.info("going on from step %d", done)

    preparer = ThreadPoolExecutor(max_workers=1)  # the next batch, while this one trains

    def prepare(phase: Phase, seed: int) -> Future[speech_data.Batch]:
        return preparer.submit(
            speech_data.make_batch, bank, tokenizer, seed, phase.batch, phase.seconds
        )

    begun, reports, before = time.monotonic(), [], 0
    trainee.train()
    for number, phase in enumerate(PHASES):
        upcoming = prepare(phase, max(done, before))
        for step in range(max(0, done - before), phase.steps):
            total = before + step
            torch.manual_seed(total)
            batch = upcoming.result()
            upcoming = prepare(phase, total + 1)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(phase, step, warm_up=number == 0)
            losses = trainee.losses(batch, phase.frozen_layers)
            loss = losses["text"] + FRAME_WEIGHT * losses["frame"] + GUIDE_WEIGHT * losses["guide"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            reports.append({name: value.item() for name, value in losses.items()})
            if (total + 1) % REPORT_STEPS == 0:
                means = {k: sum(each[k] for each in reports) / len(reports) for k in reports[0]}
                figures = " ".join(f"{name} {mean:.3f}" for name, mean in means.items())
                seconds = time.monotonic() - begun
                logger.info("%s step %d, %.0f s: %s", phase.name, total + 1, seconds, figures)
                reports.clear()
            if (total + 1) % CHECKPOINT_STEPS == 0 or step + 1 == phase.steps:
                state = {
                    "trainee": trainee.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": total + 1,
                }
                torch.save(state, checkpoint.with_suffix(".new"))
                checkpoint.with_suffix(".new").replace(checkpoint)
        before += phase.steps


def main() -> None:
    """Parse the command line, train, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK, help="folder for checkpoints")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder to write the model to")
    parser.add_argument("--quantization", default="float16", help="CTranslate2's type of weights")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument(
        "--export-only", action="store_true", help="export the last checkpoint as it is"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    texts = [text for kind in sentences.KINDS for text in sentences.sentences(kind)]
    tokenizer = speech_model.build_tokenizer(texts)
    trainee = Trainee(tokenizer)
    if options.export_only:
        state = torch.load(options.work / "checkpoint.pt", weights_only=True)
        trainee.load_state_dict(state["trainee"])
    else:
        bank = speech_data.spoken_bank(tokenizer)
        logger.info(
            "%d utterances; %d parameters",
            sum(map(len, bank.values())),
            sum(each.numel() for each in trainee.model.parameters()),
        )
        train(trainee, bank, tokenizer, options.work)
    trainee.eval()
    scratch = options.work / "huggingface"
    speech_model.export(trainee.model, tokenizer, options.model, scratch, options.quantization)
    logger.info("wrote %s", options.model)


if __name__ == "__main__":
    main()
