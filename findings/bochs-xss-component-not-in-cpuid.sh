#!/usr/bin/env bash
# Bochs 2.7 with the CPU model tigerlake: CPUID.(EAX=0DH,ECX=1):ECX is 0, so that IA32_XSS has no component, and WRMSR
# of IA32_XSS takes bit 11 (CET_U) all the same. Expected (SDM 1 13.2, 13.3): a bit that ECX does not show raises #GP;
# 3.0 shows the bits that it takes.
# Seen on 2026-11-28 (`0` or `1`: whether ECX has bit 11; then `W` behind WRMSR): 2.7 prints `0W`, 3.0 prints `1W`.
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

# The codes that a Bochs of FOLDER reports, started with these arguments, on a line.
codes() {
  local root=$work/$1 run=$work/run
  shift
  rm -rf "$run"
  mkdir "$run"
  python3 - "$run/vga.bin" <<'END'
import sys
rom = bytearray(512)
rom[:4] = b"\x55\xaa\x01\xcb"
rom[511] = -sum(rom) & 255
open(sys.argv[1], "wb").write(rom)
END
  cat >"$run/bochsrc" <<END
plugin_ctrl: biosdev=0, speaker=0, parallel=0, gameport=0, iodebug=0
display_library: term
romimage: file=$work/rom.bin
vgaromimage: file=$run/vga.bin
cpu: model=tigerlake, ips=1000000
memory: guest=16, host=16
clock: sync=none, time0=1000000000
pci: enabled=0
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
com1: enabled=1, mode=file, dev=$run/serial
log: $run/log
panic: action=fatal
END
  printf 'c\nq\n' >"$run/script"
  TERM=vt100 BXSHARE=$root/usr/share/bochs LTDL_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu/bochs/plugins \
    inside "${root##*/}" bochs-bin -q -f "$run/bochsrc" -rc "$run/script" "$@" </dev/null >"$run/out" 2>&1 || true
  xargs <"$run/serial"
}

fetch bookworm old bochs=2.7+dfsg-4+deb12u1 bochs-term=2.7+dfsg-4+deb12u1 nasm=2.16.01-1
fetch trixie new bochs=3.0+dfsg-1 bochs-term=3.0+dfsg-1

cat >"$work/rom.asm" <<'END'
        bits 16
        org 0xf0000
start:  cli
        o32 lgdt [cs:gdtr - start]
        mov eax, 1
        mov cr0, eax
        jmp dword 8:flat
        bits 32
flat:   mov ax, 16
        mov ds, ax
        mov ss, ax
        mov esp, 0x8000
        mov dx, 0x3fb           ; COM1: eight bits
        mov al, 3
        out dx, al
        mov eax, 1 << 18        ; CR4.OSXSAVE
        mov cr4, eax
        mov eax, 13
        mov ecx, 1
        cpuid
        shr ecx, 11
        and ecx, 1
        lea eax, [ecx + '0']
        call put
        mov ecx, 0xda0          ; IA32_XSS
        mov eax, 1 << 11
        xor edx, edx
        wrmsr
        mov al, 'W'
        call put
done:   mov al, 10
        call put
        mov edx, 0x8900         ; ends Bochs
        mov ecx, 8
        mov esi, bye
        rep outsb
        hlt
bye:    db "Shutdown"
put:    push edx
        push eax
        mov dx, 0x3fd
.full:  in al, dx
        test al, 0x40
        jz .full
        pop eax
        mov dx, 0x3f8
        out dx, al
        pop edx
        ret
        align 8
gdt:    dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   dw 23
        dd gdt
        times 0xfff0 - ($ - $$) db 0xff
        bits 16
        jmp 0xf000:0
        times 0x10000 - ($ - $$) db 0xff
END
inside old nasm -f bin -o "$work/rom.bin" "$work/rom.asm"
check "Bochs 2.7: CPUID's bit for CET_U in IA32_XSS, and whether WRMSR takes it" "0W" "$(codes old)"
check "Bochs 3.0" "1W" "$(codes new -debugger)"
exit $failed
