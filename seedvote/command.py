"""How an entry module runs: Hydra, errors without traceback, and the exit status.

Exit status: 0 done; 1 done, but something was left out or diverged; 2 wrong command line or input, nothing done;
130 interrupted; 143 terminated (SIGTERM).
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from seedvote.config import CONF_DIR, checked
from seedvote.errors import unknown

INTERRUPTED = 128 + signal.SIGINT

Config = TypeVar("Config")


def run_command(name: str, schema: type[Config], task: Callable[[Config], int]) -> None:
    """Compose ``conf/<name>.yaml`` with the command line, check it, call ``task`` on it and exit with its status.

    With ``--multirun`` this is done for each combination, and the largest status is the exit status.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    # Hydra then lets exceptions through to us instead of printing them its own way.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for stream in (sys.stdout, sys.stderr):
        # A file's name may hold bytes that are no UTF-8, and a terminal may know less than UTF-8.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # What a cluster sends before it takes a machine; by default Python would end without removing temporary files.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    statuses: list[int] = []
    begun = False

    def guarded(composed: DictConfig) -> None:
        nonlocal begun
        begun = True
        try:
            statuses.append(task(checked(composed, schema)))
        # Caught here, not outside: Hydra would print a report of its own on the way out.
        except OmegaConfBaseException as error:
            _fail([_sentence(error, [])])
        except ValueError as error:
            _fail(str(error).splitlines())
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            _leave_quietly()
        except OSError as error:
            _fail([f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}"])

    application = hydra.main(version_base="1.3", config_path=CONF_DIR, config_name=name)(guarded)
    try:
        _warn_of_shadowed_files()
        with _flags_in_a_sentence():
            application()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _leave_quietly()
    except Exception as error:  # Hydra lets through what its parser and OmegaConf raise
        if begun:
            raise
        _fail(_mistakes(name, schema, error))
    sys.exit(max(statuses, default=0))


def composed_again(name: str, changes: Mapping[str, str]) -> DictConfig:
    """Compose the running command once more with some keys set otherwise, in the notation of the command line.

    What was said of parts of a group that a change chooses anew is forgotten.

    Raises:
        ValueError: a key or value is wrong.
    """
    arguments = [
        argument
        for argument in HydraConfig.get().overrides.task
        if not any(f"{_key(argument)}.".startswith(f"{key}.") for key in changes)
    ]
    for key, value in changes.items():
        try:
            composed = hydra.compose(name, [*arguments, f"{key}={value}"])
        except Exception as mistake:  # as in run_command
            raise ValueError(_sentence(mistake, [f"{key}={value}"], _keys(hydra.compose(name, arguments)))) from mistake
        arguments.append(f"{key}={value}")
    return composed


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def check_vote_names(vote: str, tie: str, on_bad_member: str) -> None:
    """Refuse names of a rule, a tie rule or a way to deal with bad members that there are not.

    Raises:
        ValueError: with one line for each.
    """
    from seedvote import voting

    names = (
        ("vote", vote, voting.RULES),
        ("tie", tie, voting.TIES),
        ("on_bad_member", on_bad_member, voting.ON_BAD_MEMBER),
    )
    problems = [unknown(key, value, known) for key, value, known in names if value not in known]
    if problems:
        raise ValueError("\n".join(problems))


def command_line(module: str) -> str:
    """Return the command that is running, as it can be typed again."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


@contextmanager
def _flags_in_a_sentence() -> Iterator[None]:
    """Let argparse, which reads Hydra's flags, report a wrong one as everything else is reported."""
    own = argparse.ArgumentParser.error

    def fail(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        _fail([f"{message}; -h lists the keys, --hydra-help the flags"])

    argparse.ArgumentParser.error = fail  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        argparse.ArgumentParser.error = own  # type: ignore[method-assign]


def _leave_quietly() -> NoReturn:
    """End, as whoever read our output has left (`| head`), without Python complaining about it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def _fail(problems: list[str]) -> NoReturn:
    heading = "error: " if len(problems) == 1 else f"error: {len(problems)} mistakes\n  "
    print(heading + "\n  ".join(problems), file=sys.stderr)
    sys.exit(2)


def _mistakes(name: str, schema: type, error: Exception) -> list[str]:
    """Find every wrong override by adding one after the other; Hydra itself stops at the first."""
    arguments = sys.argv[1:]
    if any(argument.startswith("-") for argument in arguments):
        return [_sentence(error, arguments)]
    # A choice of group brings the keys that later overrides may set.
    arguments.sort(key=lambda argument: "." in argument.partition("=")[0])
    good: list[str] = []
    problems: list[str] = []
    with hydra.initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        composed = hydra.compose(name)
        for argument in arguments:
            try:
                composed = hydra.compose(name, [*good, argument])
                good.append(argument)
            except Exception as mistake:  # as in run_command
                problems.append(_sentence(mistake, [argument], _keys(composed)))
        try:
            checked(composed, schema)
        except ValueError as mistake:
            problems += str(mistake).splitlines()
        except OmegaConfBaseException as mistake:
            problems.append(_sentence(mistake, []))
    return problems or [_sentence(error, arguments)]


def _sentence(error: BaseException, arguments: list[str], keys: list[str] | None = None) -> str:
    """Say in one sentence what Hydra or OmegaConf found wrong."""
    given = " ".join(arguments)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return unknown(group or "config", choice, error.options or [])
    cause = error.__cause__ if isinstance(error, HydraException) else error
    first = (str(cause or error) or type(error).__name__).splitlines()[0]
    name, _, value = given.partition("=")
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} has no default: add {cause.full_key}=..."
    if isinstance(cause, ValidationError) and "not a ListConfig" in first:
        return f"{given}: {name} is a list, write {name}=[{value}]"
    if isinstance(cause, ValidationError) and given:
        return f"{given}: {first[0].lower()}{first[1:]}"
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and keys:
        return unknown("key", name.lstrip("+~"), keys)
    if "missing EQUAL" in str(cause or error):
        return f"{given}: every argument has the form KEY=VALUE; -h lists the keys"
    if first.startswith("Ambiguous value"):
        return f"{given}: several values are a sweep, for which --multirun must be added"
    return f"{given}: {first}" if given and given not in first else first


def _keys(composed: DictConfig) -> list[str]:
    """Return every key of a config in dotted form."""

    def walk(value: Any, prefix: str) -> list[str]:
        if not isinstance(value, dict):
            return [prefix]
        below = [leaf for key, item in value.items() for leaf in walk(item, f"{prefix}.{key}" if prefix else key)]
        return [prefix, *below] if prefix else below

    return walk(OmegaConf.to_container(composed), "")


def _warn_of_shadowed_files() -> None:
    """Say where a file of the user's own --config-dir is not read because seedvote ships one of that name."""
    for position, argument in enumerate(sys.argv[:-1]):
        if argument in ("--config-dir", "-cd"):
            directory = Path(sys.argv[position + 1])
            for file in sorted(directory.rglob("*.yaml")):
                relative = file.relative_to(directory)
                if (Path(CONF_DIR) / relative).exists():
                    print(
                        f"warning: {file} is not read: seedvote has a {relative}; rename yours",
                        file=sys.stderr,
                    )
