"""The ``zoo`` command. Nothing heavy is imported until a verb needs it."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

HELP = """\
zoo: a PyTorch Lightning model zoo

usage: zoo VERB [options]

  fit        train:    zoo fit --config dtr_dit_digits
  validate   held-out losses of a checkpoint or of weights
  test       the method's metrics, for example the quality of samples
  predict    write what the method makes: samples, masks, text, ...
  list       methods, configs, data and weights: zoo list [methods|configs|data|weights] [--json]
  convert    official weights <-> zoo weights: zoo convert FILE --method dtr --out X.safetensors
  export     a network as torch.export or ONNX: zoo export NAME|FILE --out X.pt2|X.onnx
  compare    re-test a paper's claim over seeds, with a verdict: zoo compare configs/claims/dtr.yaml
  sweep      search hyperparameters by a W&B sweep file, no account: zoo sweep dtr_dit_digits --count 12

options of fit, validate, test and predict:
  --config NAME|FILE     shipped config or YAML file; repeat to lay one over the other (--config trainer/ddp)
  --weights NAME|FILE    start from weights: a name of `zoo list weights`, .safetensors, .ckpt, hf://...
                         validate, test and predict need some; none insists on an untrained network
  --ckpt_path FILE|last  restore a checkpoint; `last` goes on with this config's newest run
  --KEY VALUE            any setting: --trainer.max_steps 100 --data.init_args.batch_size 64 --ema.decay 0.99
  --help, --print_config all settings of a verb, or the merged configuration

  --debug    show the traceback of an error
  --version  version and where it runs from
"""
RUN_VERBS = ("fit", "validate", "test", "predict")
VERBS = (*RUN_VERBS, "list", "convert", "export", "compare", "sweep")


class CommandError(Exception):
    """A mistake on the command line."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message}; see `{self.prog} --help`")


def list_command(argv: Sequence[str]) -> int:
    """``zoo list``: a table of what is there, or JSON."""
    import datamodules
    from zoo.hub.catalog import listing

    parser = _Parser(prog="zoo list", description="What the zoo holds.")
    kinds = ("methods", "configs", "data", "weights")
    parser.add_argument("kind", nargs="?", choices=kinds, help="one kind only")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    options = parser.parse_args(argv)
    rows = listing(datamodules._NAMES)
    if options.kind:
        rows = {options.kind: rows[options.kind]}
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for kind, entries in rows.items():
        print(f"{kind}:")
        width = max((len(e["name"]) for e in entries), default=0)
        for entry in entries:
            print(f"  {entry['name']:<{width}}  {entry['about']}"[:160].rstrip())
    return 0


def convert_command(argv: Sequence[str]) -> int:
    """``zoo convert``: official weights to safetensors of the zoo, checkpoints to safetensors, and back."""
    parser = _Parser(prog="zoo convert", description="Turn weights from one format into another.")
    parser.add_argument("source", type=Path, help="official file or folder, zoo .ckpt or .safetensors")
    parser.add_argument(
        "--method", help="method of the weights, for example dtr; not for zoo files; or latents"
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write, or folder for --to diffusers")
    parser.add_argument(
        "--to",
        default="zoo",
        help="zoo (default), a format of the method: official, diffusers, or a layout of latents: packed",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="what the keys cannot tell"
    )
    parser.add_argument("--force", action="store_true", help="overwrite --out")
    options = parser.parse_args(argv)
    for setting in options.set:
        if not setting.partition("=")[0] or "=" not in setting:
            raise CommandError(f"--set {setting}: expected KEY=VALUE, for example --set heads=4")
    if options.method == "latents":  # data, of which the zoo itself knows nothing
        from datamodules.latents import convert_latents

        out, given = options.out, options.set
        convert_latents(options.source, out, options.to, given, options.force, lambda x: print(f"zoo: {x}"))
        return 0
    with _heavy_imports("convert"):
        from zoo.hub.convert import convert

        given = (options.source, options.out, options.method, options.to, options.set, options.force)
        for line in convert(*given):
            print(f"zoo: {line}")
    return 0


def export_command(argv: Sequence[str]) -> int:
    """``zoo export``: the network of weights as a ``torch.export`` program or as ONNX, checked."""
    parser = _Parser(prog="zoo export", description="Write a network for use without the zoo.")
    parser.add_argument("weights", help="a name of `zoo list weights`, .ckpt, .safetensors, hf://...")
    parser.add_argument("--out", type=Path, required=True, help="file to write: X.pt2 or X.onnx")
    parser.add_argument("--force", action="store_true", help="overwrite --out")
    options = parser.parse_args(argv)
    with _heavy_imports("export"):
        from zoo.hub.export import export

        for line in export(options.weights, options.out, options.force):
            print(f"zoo: {line}", flush=True)
    return 0


def compare_command(argv: Sequence[str]) -> int:
    """``zoo compare``: run the arms of a claim file over its seeds and judge its predicates."""
    parser = _Parser(prog="zoo compare", description="Re-test a paper's claim. A stopped comparison goes on.")
    parser.add_argument("claim", help="claim file, or the name of a shipped one: dtr, claims/dtr")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder (runs/compare)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (1)")
    parser.add_argument("--quick", action="store_true", help="a look at few seeds, without verdict")
    parser.add_argument("--manifest", type=Path, help="results file to add the numbers to")
    parser.add_argument(
        "--runs", type=Path, help="file of finished runs: read, so that they are not repeated, and kept"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="remove runs of other settings, configs or zoo versions in --out"
    )
    options = parser.parse_args(argv)
    if options.jobs < 1:
        raise CommandError(f"--jobs must be at least 1, got {options.jobs}")
    from zoo.evidence.compare import compare
    from zoo.hub.catalog import CLAIMS, find_config, shadowed

    def say(line: str) -> None:
        print(f"zoo: {line}", flush=True)

    path = find_config(options.claim, CLAIMS)
    if (shipped := shadowed(path, CLAIMS)) is not None:
        say(f"{path} of the current folder, not the shipped {shipped}")
    given = (path, options.out, options.jobs, options.quick, options.manifest)
    compare(*given, say, runs_file=options.runs, fresh=options.fresh)
    return 0


def sweep_command(argv: Sequence[str]) -> int:
    """``zoo sweep``: run the trials of a W&B sweep file locally."""
    parser = _Parser(
        prog="zoo sweep",
        description="Search by a W&B sweep file, locally. A stopped sweep goes on; the same command in a "
        "second terminal joins in.",
    )
    parser.add_argument("file", help="sweep file, or the name of a shipped one: dtr_dit_digits")
    parser.add_argument("--count", type=int, help="completed trials in all (run_cap, or the whole grid)")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="folder (runs/sweep)")
    parser.add_argument("--jobs", type=int, default=1, help="trials at the same time (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the search, not of the runs (0)")
    parser.add_argument("--manifest", type=Path, help="results file to add the best trial and the table to")
    options = parser.parse_args(argv)
    for name, least in (("jobs", 1), ("count", 1), ("seed", 0)):
        if getattr(options, name) is not None and getattr(options, name) < least:
            raise CommandError(f"--{name} must be at least {least}, got {getattr(options, name)}")
    from zoo.evidence.sweep import sweep
    from zoo.hub.catalog import SWEEPS, find_config, shadowed

    def say(line: str) -> None:
        print(f"zoo: {line}", flush=True)

    path = find_config(options.file, SWEEPS)
    if (shipped := shadowed(path, SWEEPS)) is not None:
        say(f"{path} of the current folder, not the shipped {shipped}")
    sweep(path, options.out, options.count, options.jobs, options.seed, options.manifest, say)
    return 0


def _run_command(verb: str) -> Callable[[Sequence[str]], int]:
    def command(argv: Sequence[str]) -> int:
        # Read when torch loads OpenMP. Threads that spin while they wait make small networks ten times slower
        # as soon as another process wants a core (measured: 100 steps of dtr_dit_digits 86 s against 8 s).
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from zoo.engine.launch import stop_with_parent

        stop_with_parent()
        from zoo.engine.configs import read_config, split_configs

        for path in split_configs(argv)[0]:
            read_config(path)  # a mistake there is told at once
        # what goes to a file or a pager is not preceded by a line of ours
        answers_only = any(a.startswith(("-h", "--help", "--print_config")) or ".help" in a for a in argv)
        with _heavy_imports("" if answers_only else verb) as ready:
            from zoo.engine.runner import run
            from zoo.evidence.manifest import record

            return run(verb, argv, record, ready)

    return command


@contextlib.contextmanager
def _heavy_imports(verb: str) -> Iterator[Callable[[], None]]:
    """A line at once, for ``verb``: importing torch and Lightning takes seconds.

    Nothing that an import makes is garbage, and looking for some costs a fifth of the start (measured). Gives
    what is to be called when all is imported; else the collector works again at the end.
    """
    fresh = "lightning" not in sys.modules
    from zoo.engine.ranks import rank

    if verb and fresh and rank() == 0:
        print(f"zoo: {verb}: importing torch and lightning", flush=True)
    paused = fresh and gc.isenabled()
    if paused:
        gc.disable()

    def ready() -> None:
        if paused and not gc.isenabled():
            gc.freeze()  # what the start has made stays to the end: the collector need not look at it
            gc.enable()

    try:
        yield ready
    finally:
        if paused:
            gc.enable()


def _version() -> str:
    import zoo

    return f"zoo {zoo.__version__} from {Path(zoo.__file__).parent} (Python {sys.version.split()[0]})"


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if argv[0] == "--version":
        print(_version())
        return 0
    verb, rest = argv[0], argv[1:]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"verbs are {', '.join(VERBS)}"
        raise CommandError(f"no verb {verb!r}; {hint}")
    commands: dict[str, Any] = {
        "list": list_command,
        "convert": convert_command,
        "export": export_command,
        "compare": compare_command,
        "sweep": sweep_command,
    }
    return int(commands.get(verb, _run_command(verb))(rest))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors are one line unless ``--debug`` is given."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    from zoo.engine.ranks import forget_leftovers

    for line in forget_leftovers():
        print(f"zoo: {line}", file=sys.stderr, flush=True)
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        if debug and stop.code:
            raise
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        if _speaks(error):
            text = str(error) if isinstance(error, CommandError) else _explain(error)
            print(f"zoo: error: {text}", file=sys.stderr, flush=True)
        return 1


def _speaks(error: Exception) -> bool:
    from zoo.engine.errors import speaks

    return speaks(error)


def _explain(error: Exception) -> str:
    from zoo.engine.errors import explain

    return explain(error)


if "ZOO_OWN_MODULES" in os.environ:  # spawned by a run whose user has named own modules
    from zoo.engine.own_modules import install_in_child

    install_in_child()

if __name__ == "__main__":
    sys.exit(main())
