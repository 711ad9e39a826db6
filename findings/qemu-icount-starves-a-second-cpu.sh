#!/usr/bin/env bash
# QEMU, own emulation (TCG) with -icount and two processors: while a timer runs, a processor that waits for the other without PAUSE
# keeps it from executing a single instruction, for ever, in 7.2. Its turn lasts until the timer is due, and the other's turn is the
# rest of that time, which is nothing; then the first has its turn again. Linux' start of a second processor waits so, and never
# ends. Expected: each processor has its turn. 10.0.13 divides the time until the timer is due among the processors.
# Seen on 2026-11-29, the second processor's answer (`A`) or none in 10^9 rounds (`-`) to a wait with PAUSE and to one without: 7.2
# prints `A -`, 10.0.13 prints `A A`.
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

# The answers that a QEMU of FOLDER has, on a line.
answers() {
  rm -f "$work/answers"
  QEMU_MODULE_DIR=$work/$1/usr/lib/x86_64-linux-gnu/qemu timeout 300 \
    "$(find "$work/$1" -name ld-linux-x86-64.so.2 | head -n 1)" \
    --library-path "$work/$1/usr/lib/x86_64-linux-gnu:$work/$1/lib/x86_64-linux-gnu" \
    "$work/$1/usr/bin/qemu-system-x86_64" -L "$work/$1/usr/share/qemu" \
    -no-user-config -nodefaults -machine pc -m 16 -smp 2 -display none -no-reboot -accel tcg -icount shift=0,sleep=off \
    -bios "$work/rom.bin" -debugcon file:"$work/answers" -device isa-debug-exit,iobase=0xf4 || true
  xargs <"$work/answers"
}

fetch bookworm old qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 nasm=2.16.01-1
fetch trixie new qemu-system-x86=1:10.0.13+ds-0+deb13u1

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
        mov es, ax
        mov esi, second
        mov edi, 0x8000
        mov ecx, second.end - second
        rep movsb
        mov ebx, 0xfee00000     ; the local APIC
        mov dword [ebx + 0xf0], 0x1ff
        mov dword [ebx + 0x300], 0xc4500        ; INIT to all others
        mov ecx, 100000
.wait:  pause
        loop .wait
        mov dword [ebx + 0x300], 0xc4608        ; start-up, at 8000h
.up:    pause
        cmp byte [0x500], 0     ; the second is there
        je .up
        mov dword [ebx + 0x3e0], 0xb            ; the timer: 1 ms, periodic; its interrupt stays pending
        mov dword [ebx + 0x320], 0x20040
        mov dword [ebx + 0x380], 1000000
        inc byte [0x501]        ; a question, and a wait with PAUSE
        mov ecx, 1000000000
.with:  pause
        cmp byte [0x502], 1
        loopne .with
        call tell
        inc byte [0x501]        ; another, and a wait without
        mov ecx, 1000000000
.without:
        cmp byte [0x502], 2
        loopne .without
        call tell
        out 0xf4, al
.stop:  hlt
        jmp .stop
tell:   mov al, '-'
        jne .no
        mov al, 'A'
.no:    out 0xe9, al
        mov al, 10
        out 0xe9, al
        ret
        bits 16
second: xor ax, ax
        mov ds, ax
        inc byte [0x500]
.wait:  pause
        mov al, [0x501]
        mov [0x502], al         ; the answer is the question
        jmp .wait
.end:
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
what="a second processor's answer to a wait with PAUSE and to one without"
check "QEMU 7.2: $what" "A -" "$(answers old)"
check "QEMU 10.0.13: $what" "A A" "$(answers new)"
exit $failed
