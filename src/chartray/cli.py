"""The command line: commands, and sentences for what goes wrong. Everything heavy is imported inside its command."""

import inspect
import json
import os
import re
import sys
from contextlib import nullcontext, redirect_stdout

from cyclopts import App, CycloptsError

from chartray.commands import data, evidence, product, project, training
from chartray.config.renamed import renamed_tokens
from chartray.console import Told, failed, telling
from chartray.errors import InputError, LostProcess, OutputError, Stopped, UnhealthyRun
from chartray.memory import ran_out
from chartray.outputs.disk import of_the_machine
from chartray.outputs.lock import supported
from chartray.outputs.notices import held
from chartray.without_pandas import settle_pyarrow
from chartray.wording import first_line

DONE, MACHINE_FAILED, UNUSABLE_INPUT, UNHEALTHY, INTERRUPTED, NOBODY_READS = 0, 1, 2, 3, 130, 141

_LONGEST_WORD = 400  # a path may have as many

app = App(
    name="chartray",
    help="Chest X-ray encoders pretrained with the patient's chart, and a fair test of what the chart was worth.",
    help_format="plaintext",
    help_epilogue="Every command takes --quiet (no progress, only results and warnings) and, but for bench, --json "
    "(one object on standard output; docs/json.md).",
    version_flags=["--version"],
)


def _in_paragraphs(text: str) -> str:
    r"""A docstring with one line for each paragraph and each argument: help is wrapped at the terminal's width.

    >>> _in_paragraphs("Does it,\n    at once.\n\n    Args:\n        out: A new\n            folder.")
    'Does it, at once.\n\nArgs:\n    out: A new folder.'
    """
    text = re.sub(r"\n {8,}(?=\S)", " ", inspect.cleandoc(text))
    return re.sub(r"(?<=\S)\n(?=\S)", " ", text)


cohort = App(name="cohort", help="Makes cohort.parquet from records and images: one row per image, split by patient.")
app.command(cohort)

_COMMANDS = (
    project.doctor,
    project.init,
    product.demo,
    data.simulate,
    data.features,
    data.ingest,
    data.check,
    training.pretrain,
    training.knobs,
    training.study,
    evidence.evaluate,
    evidence.compare,
    evidence.plan,
    evidence.audit,
    evidence.embed,
    product.report,
    product.export,
    product.bench,
)
_SOURCES = (data.cohort_mimic, data.cohort_chexpert, data.cohort_nih, data.cohort_dicom, data.cohort_table)
for command in (*_COMMANDS, *_SOURCES):
    command.__doc__ = _in_paragraphs(command.__doc__ or "")
for command in _COMMANDS:
    app.command(command)
for source in _SOURCES:
    cohort.command(source, name=source.__name__.removeprefix("cohort_"))

app.register_install_completion_command(add_to_startup=False)


def main() -> None:
    """Runs one command; exits 0 only when it is done, 1 where it cannot write, 2 for unusable input."""
    # A thread that waits spins for some 10 us, then sleeps: whoever sleeps at once loses a seventh on idle cores, and
    # whoever spins for long loses most of a shared one (benchmarks/LOG.md).
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
    tokens = sys.argv[1:]
    if _is_work(tokens):
        settle_pyarrow()
    sys.exit(run_command(tokens))


def run_command(tokens: list[str]) -> int:
    """The exit code of a command; what went wrong is said in one sentence on standard error.

    With --json, one object is all that standard output gets, whatever happened.
    """
    words, quiet, as_json = _without_global(tokens)
    with telling(quiet=quiet, as_json=as_json) as told, redirect_stdout(sys.stderr) if as_json else nullcontext():
        with held() as notices:
            code = _exit_code(words)
        remarks = list(dict.fromkeys(notices if code != UNUSABLE_INPUT else ()))
        for line in remarks:
            print(line, file=sys.stderr)
    if as_json:
        print(json.dumps(_object(words, code, told, remarks), ensure_ascii=False, allow_nan=False))
    return code


def _without_global(tokens: list[str]) -> tuple[list[str], bool, bool]:
    """A command line without the options that every command has, and which of them were given.

    >>> _without_global(["check", "store", "--json", "--quiet"])
    (['check', 'store'], True, True)
    """
    # The --json of bench is older: it takes a file.
    own = {"--quiet", "-q"} if tokens[:1] == ["bench"] else {"--quiet", "-q", "--json"}
    given = own & set(tokens)
    return [token for token in tokens if token not in given], bool(given - {"--json"}), "--json" in given


def _object(tokens: list[str], code: int, told: Told, notices: list[str]) -> dict[str, object]:
    """What --json prints; docs/json.md describes it."""
    named = tokens[: 2 if tokens[:1] == ["cohort"] else 1]
    return {
        "command": " ".join(named),
        "exit_code": code,
        "error": told.error,
        "notices": notices,
        "lines": told.lines,
        "result": told.values,
    }


def _exit_code(tokens: list[str]) -> int:
    try:
        if _is_work(tokens):
            supported()  # elsewhere modules of Python's own are missing, which the commands import
        app(_with_values(renamed_tokens(tokens)), exit_on_error=False, print_error=False, result_action="return_none")
    except CycloptsError as error:
        return _say(" ".join(str(error).split()), UNUSABLE_INPUT)
    except InputError as error:
        return _say(str(error), UNUSABLE_INPUT)
    except (OutputError, LostProcess) as error:
        return _say(str(error), MACHINE_FAILED)
    except UnhealthyRun as error:
        return _say(str(error), UNHEALTHY)
    except Stopped as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("stopped as asked", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        return _say(_of_memory(error), UNUSABLE_INPUT)
    except BrokenPipeError:
        # `| head` has read enough: what is still to be written, at exit too, goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except OSError as error:
        # A disk that is full, a folder that may not be written: the machine's state, no fault of the program.
        if error.filename is None and of_the_machine(error) is None:
            raise
        return _say(_of_the_disk(error), UNUSABLE_INPUT if of_the_machine(error) is None else MACHINE_FAILED)
    return DONE


def _is_work(tokens: list[str]) -> bool:
    return bool(tokens) and not {*app.help_flags, *app.version_flags} & set(tokens)


def _with_values(tokens: list[str]) -> list[str]:
    """`--health.stop false` as `--health.stop=false`: cyclopts takes a boolean option for a flag without a value.

    >>> _with_values(["--health.stop", "false", "--train.compile", "true", "--resume", "true"])
    ['--health.stop=false', '--train.compile=true', '--resume', 'true']
    """
    found: list[str] = []
    for token in tokens:
        if token in ("true", "false") and found and re.fullmatch(r"--\w+\.[\w-]+", found[-1]):
            found[-1] += f"={token}"
        else:
            found.append(token)
    return found


def _of_memory(error: Exception) -> str:
    return (
        f"expected more memory for this command, found none left ({first_line(error)}); a run of pretraining continues "
        "with --resume and a higher --train.accumulate; a new one needs less with a lower train.batch_size or "
        "views.focal_count"
    )


def _of_the_disk(error: OSError) -> str:
    where = f" {error.filename}" if error.filename is not None else ""
    said = of_the_machine(error) or error.strerror
    return f"expected to read or write{where}, found: {said}; repair it, or choose another place"


def _say(sentence: str, code: int) -> int:
    """Shortens very long words, such as a value of thousands of letters."""
    short = re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: f"{word[0][:60]}... ({len(word[0])} characters)", sentence)
    failed(short)
    return code
