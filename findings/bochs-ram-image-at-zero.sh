#!/usr/bin/env bash
# Bochs 3.1: optramimage1 puts every page of its file at physical address 0, one over the other, whatever address it was
# given. Expected: the file's bytes from that address on, as in 2.7 and 3.0.
# Seen on 2026-11-29 (a file of two pages, filled with A and with B, for 800000h; the bytes at 800000h, 801000h and 0 as
# the debugger shows them at the start): 2.7 prints `0x41 0x42 0x00`, 3.1 prints `0x00 0x00 0x42`.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch SUITE FOLDER PACKAGE=VERSION...: unpacks packages, and the libraries that they need, into $work/FOLDER.
fetch() {
  local suite=$1 root=$work/$2 state=$work/apt-$2 apt package
  shift 2
  mkdir -p "$root" "$state"/{lists,archives}/partial
  : >"$state/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian} $suite main" >"$state/sources"
  apt=(apt-get -qq -o Dir::Etc::SourceList="$state/sources" -o Dir::Etc::SourceParts=- -o Dir::State="$state"
    -o Dir::State::Status="$state/status" -o Dir::Cache="$state" -o Dir::Cache::Archives="$state/archives"
    -o APT::Architecture=amd64 -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false)
  "${apt[@]}" update
  "${apt[@]}" install --download-only --no-install-recommends -y "$@" >/dev/null
  for package in "$state"/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
}

# inside FOLDER PROGRAM ARGUMENTS...: runs a program of that folder with the libraries there.
inside() {
  local root=$work/$1 program=$2
  shift 2
  "$(find "$root" -name ld-linux-x86-64.so.2 | head -n 1)" \
    --library-path "$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu" "$root/usr/bin/$program" "$@"
}

failed=0
# check NAME EXPECTED SEEN
check() {
  echo "$1: $3"
  [[ $2 == "$3" ]] || { echo "  this has changed: it was $2" >&2; failed=1; }
}

# The three bytes in a Bochs of FOLDER, started with these arguments, on a line.
bytes() {
  local root=$work/$1 run=$work/run
  shift
  rm -rf "$run"
  mkdir "$run"
  python3 - "$run" <<'END'
import sys
run = sys.argv[1]
vga = bytearray(512)
vga[:4] = b"\x55\xaa\x01\xcb"
vga[511] = -sum(vga) & 255
open(run + "/vga.bin", "wb").write(vga)
open(run + "/rom.bin", "wb").write(b"\xf4" * 65536)
open(run + "/ram.bin", "wb").write(b"A" * 4096 + b"B" * 4096)
END
  cat >"$run/bochsrc" <<END
plugin_ctrl: biosdev=0, speaker=0, parallel=0, gameport=0, iodebug=0
display_library: term
romimage: file=$run/rom.bin
vgaromimage: file=$run/vga.bin
optramimage1: file=$run/ram.bin, address=0x800000
cpu: ips=1000000
memory: guest=16, host=16
clock: sync=none, time0=1000000000
pci: enabled=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
log: $run/log
panic: action=fatal
END
  printf 'xp /1bx 0x800000\nxp /1bx 0x801000\nxp /1bx 0\nq\n' >"$run/script"
  TERM=vt100 BXSHARE=$root/usr/share/bochs LTDL_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu/bochs/plugins \
    inside "${root##*/}" bochs-bin -q -f "$run/bochsrc" -rc "$run/script" "$@" </dev/null >"$run/out" 2>&1 || true
  sed -n 's/^.*<bogus.*>:[[:space:]]*//p' "$run/out" | tr -d '\r' | xargs
}

fetch bookworm old bochs=2.7+dfsg-4+deb12u1 bochs-term=2.7+dfsg-4+deb12u1
fetch trixie new bochs=3.0+dfsg-1 bochs-term=3.0+dfsg-1
fetch sid newest bochs=3.1+dfsg-1 bochs-term=3.1+dfsg-1
check "Bochs 2.7: the bytes at 800000h, 801000h and 0" "0x41 0x42 0x00" "$(bytes old)"
check "Bochs 3.0" "0x41 0x42 0x00" "$(bytes new -debugger)"
check "Bochs 3.1" "0x00 0x00 0x42" "$(bytes newest -debugger)"
exit $failed
