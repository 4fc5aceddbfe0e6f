"""The shell that prepares an environment and then becomes its interpreter: its text and what it is told.

The text is always the same. What is to be done comes as arguments, a verb and a word each, up to ``--``; nothing of a
manifest is ever read as shell. The site's own prologue is.

While it works its input is empty and its output goes to the log: the pipes to the agent are the interpreter's alone.
What goes wrong it says as :mod:`hpcserve.bootstrap` does.

Source: modules(1) and Lmod's ``init/bash`` for where a module command comes from; conda's ``activate.py`` for the order
of an activation: leave the environment that is active, set the variables, source ``activate.d``. Seen with
environment-modules 5.2.0 and Lmod 8.6.19.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hpcserve.bootstrap import SAYS, UNFIT
from hpcserve.servable import conda

SHELL = "/bin/bash"

# Others' scripts run in this very shell: so every name is ours alone, and neither -e nor -u is set.
_TEXT = f"""\
exec {{_hpcserve_in}}<&0 {{_hpcserve_out}}>&1 </dev/null >&2
_hpcserve_python=$1 _hpcserve_words=("$@") _hpcserve_at=1 _hpcserve_step='its preparation'
set --
_hpcserve_refuse() {{
    trap - EXIT
    printf '{SAYS}%s\\n' "$1" >&2
    exit {UNFIT}
}}
trap '_hpcserve_refuse "on $HOSTNAME $_hpcserve_step ended the shell that prepares the environment, which it must \\
not"' EXIT
_hpcserve_scripts() {{
    mapfile -t _hpcserve_found < <(LC_ALL=C; printf '%s\\n' "$1"/*.sh)
}}
if ! type module >/dev/null 2>&1; then
    for _hpcserve_init in "$LMOD_PKG/init/bash" "$MODULESHOME/init/bash" \\
        /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /etc/profile.d/z00_lmod.sh \\
        /usr/share/modules/init/bash /usr/share/lmod/lmod/init/bash; do
        if [ -r "$_hpcserve_init" ]; then
            . "$_hpcserve_init"
            type module >/dev/null 2>&1 && break
        fi
    done
fi
while [ "${{_hpcserve_words[_hpcserve_at]}}" != -- ]; do
    _hpcserve_word=${{_hpcserve_words[_hpcserve_at + 1]}}
    case ${{_hpcserve_words[_hpcserve_at]}} in
    prologue)
        _hpcserve_step="the line '$_hpcserve_word' of the site's environments.prologue"
        eval "$_hpcserve_word" || _hpcserve_refuse "on $HOSTNAME $_hpcserve_step failed with exit code $?; correct it \\
in the site file"
        set +eu  # what follows was not written for it
        ;;
    module)
        _hpcserve_step="module load $_hpcserve_word"
        type module >/dev/null 2>&1 || _hpcserve_refuse "$HOSTNAME has no module command, which environment.modules \\
needs; if it has one, start it by a line of environments.prologue in the site file, such as 'source DIR/init/bash'"
        module load "$_hpcserve_word" || _hpcserve_refuse "on $HOSTNAME $_hpcserve_step failed; see what it said, \\
and correct environment.modules (module avail lists what there is), or let the site file's \\
environments.prologue say where it is: 'module use DIR'"
        ;;
    conda)
        _hpcserve_step="activating $_hpcserve_word"
        if [ -n "$CONDA_PREFIX" ] && [ "${{CONDA_SHLVL:-0}}" != 0 ]; then
            _hpcserve_scripts "$CONDA_PREFIX/etc/conda/deactivate.d"
            for ((_hpcserve_i = ${{#_hpcserve_found[@]}} - 1; _hpcserve_i >= 0; _hpcserve_i--)); do
                _hpcserve_step=${{_hpcserve_found[_hpcserve_i]}}
                [ ! -r "$_hpcserve_step" ] || . "$_hpcserve_step"
            done
            PATH=":$PATH:" && PATH=${{PATH//":$CONDA_PREFIX/bin:"/:}} && PATH=${{PATH#:}} && PATH=${{PATH%:}}
        fi
        export PATH="$_hpcserve_word/bin:$PATH" CONDA_PREFIX="$_hpcserve_word" CONDA_SHLVL=1
        ;;
    set) export "$_hpcserve_word" ;;
    unset) unset -v "$_hpcserve_word" ;;
    scripts)
        _hpcserve_scripts "$_hpcserve_word"
        for _hpcserve_step in "${{_hpcserve_found[@]}}"; do
            [ ! -r "$_hpcserve_step" ] || . "$_hpcserve_step"
        done
        ;;
    esac
    ((_hpcserve_at += 2))
done
type -P -- "$_hpcserve_python" >/dev/null || _hpcserve_refuse "$HOSTNAME has no $_hpcserve_python once the \\
environment is prepared; correct environment.python, add the module that has it, or see that its directory is visible \\
there"
_hpcserve_step="starting $_hpcserve_python"
exec <&"$_hpcserve_in" >&"$_hpcserve_out" {{_hpcserve_in}}<&- {{_hpcserve_out}}>&-
exec -- "$_hpcserve_python" "${{_hpcserve_words[@]:_hpcserve_at + 1}}"
"""

Step = tuple[str, str]
"""A verb of the text, and its word."""


def through(steps: Iterable[Step], python: str, arguments: Sequence[str]) -> list[str]:
    """The command that takes ``steps``, then runs ``python``, a path or what the steps put on the PATH."""
    words = [word for step in steps for word in step]
    return [SHELL, "-c", _TEXT, "hpcserve", python, *words, "--", *arguments]


def prologue_steps(prologue: Iterable[str]) -> list[Step]:
    """Runs the site's lines."""
    return [("prologue", line) for line in prologue]


def module_steps(modules: Iterable[str]) -> list[Step]:
    """Loads modules in their order."""
    return [("module", module) for module in modules]


def conda_steps(prefix: Path) -> list[Step]:
    """Activates the conda environment at ``prefix``.

    Raises:
        ManifestError: A file of it cannot be read.
    """
    variables = conda.variables(prefix)
    return [
        ("conda", str(prefix)),
        ("set", f"CONDA_DEFAULT_ENV={conda.name_of(prefix)}"),
        *(("unset", name) if value is None else ("set", f"{name}={value}") for name, value in variables.items()),
        ("scripts", str(prefix / "etc" / "conda" / "activate.d")),
    ]
