# Sourced by the scripts: makes .venv and node_modules hold exactly what is locked. Idempotent and quick when nothing changed.
VENV=${ASSAY_VENV:-$PWD/.venv}
UV_VERSION=0.13.9
export PATH="$VENV/bin:$PWD/node_modules/.bin:$PATH" VIRTUAL_ENV="$VENV"
unset PYTHONDONTWRITEBYTECODE # compile each module once, but keep the results out of the tree
export PYTHONPYCACHEPREFIX="${PYTHONPYCACHEPREFIX:-$PWD/.cache/pycache}"

find_python() {
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null && { echo "$candidate"; return; }
  done
  echo "assay needs Python 3.11 or newer (below 3.15): install it, or name it with PYTHON=/path/to/python" >&2
  return 1
}

ensure_uv() {
  [ -x "$VENV/bin/python" ] || "$(find_python)" -m venv "$VENV"
  [ -x "$VENV/bin/uv" ] || "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
}

# ensure_python LOCKFILE: install what LOCKFILE pins (hashes required) and the package itself, once per lock content.
ensure_python() {
  ensure_uv
  local stamp="$VENV/.assay-$(basename "$1")" want
  want=$(cat "$1" pyproject.toml | sha256sum)
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
  echo "installing $1 into ${VENV#"$PWD"/} …" >&2
  "$VENV/bin/uv" pip install --quiet --require-hashes -r "$1"
  "$VENV/bin/uv" pip install --quiet --no-deps --no-build-isolation -e .
  echo "$want" >"$stamp"
}

ensure_node() {
  command -v node >/dev/null 2>&1 || { echo "assay needs Node.js 20 or newer (it carries the local chain, Anvil)" >&2; return 1; }
  local stamp=node_modules/.assay-lock want
  want=$(sha256sum <package-lock.json)
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return
  echo "installing package-lock.json into node_modules …" >&2
  npm install --silent --no-save --no-audit --no-fund --ignore-scripts # ci refuses a lock without every platform's binary
  echo "$want" >"$stamp"
}
