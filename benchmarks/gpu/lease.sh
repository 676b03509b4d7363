#!/usr/bin/env bash
# What can be measured on a GPU that is lent for minutes?
#
# Method:   the sections below, in order of worth. Each is a process of its own, ended at its limit,
#           that writes its findings as it goes: none can stop the next or take its findings along.
#           One cache of compiled programs serves them all.
# Command:  benchmarks/gpu/lease.sh [--tiny] [--part 1|2] [--out DIR] [--wheels DIR]
#               [--cifar ARCHIVE | --data-dir DIR]
#           Both parts, one after the other, where none is named. Part 2 goes on from part 1's
#           findings: in DIR, else as this machine keeps them, else benchmarks/results.
#           --tiny tries it on any device. --cifar takes what pack_cifar10.py packs, --data-dir
#           TFDS's folder. --wheels takes a folder of wheels that the Python lacks.
#           PYTHON names the Python; .venv's where there is one, else python3.
# Time:     at most 9 minutes for part 1 and 4 for part 2; --tiny 3 minutes for both on two cores.
# Writes:   to DIR ($OUT where set, else benchmarks/results): gpu_DEVICE.json, and of each part
#           gpu_partN.log and gpu_partN_runs.tar.gz, the searches' run folders.
# Exits:    with 1 if a section failed or ran out of time.

# Sections of run.py (NAME or NAME:SEED; with + in one process), their limits in seconds, and what
# they tell. LEASE_SECTIONS, in the same form, takes the place of both parts.
sections() {
  case $1 in
    1) cat <<'END'
sanity              55   losses equal the CPU's to rounding; a child that diverges stays alone
suite_throughput   115   candidates a second on the suite
suite_profile       50   where a step's time goes
search             140   a search on the suite: as many trainings as the limit lets it do
lanes+throughput   170   CIFAR-10, the full protocol: candidates an hour
END
    ;;
    2) cat <<'END'
suite_precision     45   do cheaper products rank rules alike on the suite?
suite_pytorch       60   against one PyTorch child at a time, eager and compiled
pytorch             75   the same on CIFAR-10
interpreter+floor+precision 60 CIFAR-10: the rule's share, the card's limit, cheaper products
END
    ;;
  esac
}
seconds_of_part=(0 540 240)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$(dirname "$here")")
work=${TMPDIR:-/tmp}/nos_optax_gpu_$UID # what the sections of one machine share
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
python=${PYTHON:-$python}

main() {
  local parts="1 2" wheels="" part status=0
  out=${OUT:-$root/benchmarks/results} cifar="" unpacked="" few=() options=(--cache)
  while [ $# -gt 0 ]; do
    case $1 in
      --tiny) options+=(--tiny) few=(--train-examples 400) ;;
      --part | --out | --wheels | --cifar | --data-dir)
        [ $# -gt 1 ] || usage "$1 takes a value"
        case $1 in
          --part) parts=$2 ;;
          --out) out=$2 ;;
          --wheels) wheels=$2 ;;
          --cifar) cifar=$2 ;;
          --data-dir) options+=(--data-dir "$2") ;;
        esac
        shift
        ;;
      *) usage "unknown argument $1" ;;
    esac
    shift
  done
  case $parts in 1 | 2 | "1 2") ;; *) usage "--part takes 1 or 2" ;; esac

  if [ -n "$cifar" ]; then
    unpacked=$work/cifar10${few[1]:+_${few[1]}}.npz # another file for a trial's few images
    options+=(--cifar "$unpacked")
  fi
  mkdir -p "$out" "$work"
  export PYTHONPATH=$root PYTHONUNBUFFERED=1 JAX_COMPILATION_CACHE_DIR=$work/compiled
  export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 # small programs add up over the processes
  [ -z "$wheels" ] || install_wheels "$wheels"
  trap 'kill -TERM -- "-$running" 2>/dev/null; exit 130' INT TERM
  for part in $parts; do
    run_part "$part" || status=1
  done
  return $status
}

usage() {
  echo "$1" >&2
  sed -n '/^# Command:/,/^# Time:/{/^# Time:/d; s/^# //; p}' "${BASH_SOURCE[0]}" >&2
  exit 2
}

install_wheels() {
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade \
    --target "$work/wheels" "$1"/*.whl && PYTHONPATH=$root:$work/wheels
}

# Run the sections of a part, and print a table of how they ended.
run_part() {
  local part=$1 start=$SECONDS table="" status=0
  local name limit about began left ended output headline
  log=$out/gpu_part$part.log runs=$work/runs_part$part
  rm -rf "$runs"
  : >"$log"
  [ "$part" = 1 ] || resume
  { describe_machine && unpack; } >>"$log" 2>&1
  while read -r name limit about; do
    [ -n "$name" ] || continue
    began=$SECONDS left=$((seconds_of_part[part] - SECONDS + start))
    say "==== $name: $about (at most $limit seconds, of $left left)"
    limit=$((limit < left ? limit : left))
    if run_section "$name" "$limit"; then
      ended="ok"
    elif [ $((SECONDS - began)) -ge "$limit" ]; then
      ended="out of time" status=1
    else
      ended="failed" status=1
    fi
    keep
    headline=$(headlines <<<"$output")
    if [ -z "$headline" ] && [ "$ended" = failed ]; then
      headline=$(tail -n 1 <<<"$output") # it did not get so far as to say why
    fi
    table+=$(printf '%-18s %5d  %-11s  %s' "$name" $((SECONDS - began)) "$ended" "$headline")$'\n'
  done < <(if [ -n "$LEASE_SECTIONS" ]; then echo "$LEASE_SECTIONS"; else sections "$part"; fi)
  say "==== part $part: $((SECONDS - start)) seconds"
  say "$(printf '%-18s %5s  %-11s  %s' section secs ended findings)"
  say "${table%$'\n'}"
  return $status
}

# Run a section for at most so many seconds; leave what it printed in $output.
run_section() {
  local before status
  output=""
  [ "$2" -gt 0 ] || return # to timeout, 0 is no limit
  before=$(wc -c <"$log")
  # In the log at once, and not by a pipe, which a process that is left behind would hold open.
  # shellcheck disable=SC2086  # one word for each section
  timeout -k 5 "$2" "$python" "$here/run.py" "${options[@]}" --limit "$2" --out "$out" \
    --runs "$runs" --sections ${1//+/ } >>"$log" 2>&1 &
  running=$!
  wait "$running"
  status=$?
  kill -KILL -- "-$running" 2>/dev/null # what it has started and left
  output=$(tail -c +$((before + 1)) "$log")
  echo "$output"
  return $status
}

# Print the last headline of each section, or why it failed.
headlines() {
  awk '/^== / && line { lines = lines line "; "; line = "" }
       /^(headline|failed|left out): / {
         line = $0; sub(/^headline: /, "", line); gsub(/"/, "", line)
       }
       END { print lines line }'
}

# Keep what must outlive the process: for part 2, and in the folder that is brought back.
keep() {
  rm -f "$out"/gpu_*.new # of a section that was ended as it wrote
  cp "$out"/gpu_*.json "$work" 2>/dev/null
  if [ -d "$runs" ]; then
    tar -czf "$runs.tar.gz" -C "$work" "$(basename "$runs")" &&
      mv "$runs.tar.gz" "$out/gpu_part${part}_runs.tar.gz"
  fi
}

resume() {
  local folder
  for folder in "$out" "$work" "$root/benchmarks/results"; do
    if compgen -G "$folder/gpu_*.json" >/dev/null; then
      [ "$folder" = "$out" ] || cp "$folder"/gpu_*.json "$out"
      return
    fi
  done
}

describe_machine() {
  date -u
  "$python" --version
  if command -v nvidia-smi >/dev/null; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  else
    echo "no nvidia-smi here"
  fi
}

# Decode the packed images once for all sections.
unpack() {
  if [ -n "$cifar" ] && [ ! "$unpacked" -nt "$cifar" ]; then
    "$python" "$here/pack_cifar10.py" "$cifar" "$unpacked" "${few[@]}"
  fi
}

say() {
  echo "$1" | tee -a "$log"
}

main "$@"
