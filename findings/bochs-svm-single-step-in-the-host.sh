#!/usr/bin/env bash
# Bochs 2.7, 3.0 and 3.1, SVM: where RFLAGS.TF is set in the guest and the next instruction is intercepted, the
# guest's single-step trap arrives in the host, behind VMRUN, as #DB, although the host's RFLAGS.TF is 0. Expected
# (APM 2 15.6, 15.7): an instruction intercept completes nothing, and leaves no trap.
# Seen on 2026-11-28: each prints `!72`: the #DB handler's mark, then the exit code of CPUID. Without TF it is `72`.
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
cpu: model=${model:-zambezi}, ips=1000000
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
fetch sid newest bochs=3.1+dfsg-1 bochs-term=3.1+dfsg-1

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
        mov ss, ax
        mov esp, 0x8000
        mov dx, 0x3fb           ; COM1: eight bits
        mov al, 3
        out dx, al
        mov eax, trap           ; a gate for #DB
        mov [0x1008], ax
        mov word [0x100a], 8
        mov word [0x100c], 0x8e00
        shr eax, 16
        mov [0x100e], ax
        lidt [idtr]
        mov ecx, 0xc0000080     ; EFER.SVME
        rdmsr
        or ax, 1 << 12
        wrmsr
        mov ecx, 0xc0010117     ; VM_HSAVE_PA
        mov eax, 0x4000
        xor edx, edx
        wrmsr
        mov ebp, tests
next:   mov ebx, [ebp]
        test ebx, ebx
        jz done
        mov edi, 0x10000        ; the VMCB, behind it the permission maps
        mov ecx, 0x2000
        xor eax, eax
        rep stosd
        mov edi, 0x10000
        mov eax, [ebp + 4]
        mov [edi], eax          ; intercepts of control registers
        mov eax, [ebp + 8]
        mov [edi + 0xc], eax    ; intercepts, first word
        mov eax, [ebp + 12]
        mov [edi + 0x10], eax   ; second word
        mov dword [edi + 0x40], 0x14000
        mov dword [edi + 0x48], 0x12000
        mov dword [edi + 0x58], 1
        mov esi, segments
        lea edi, [edi + 0x400]
        mov ecx, 16
        rep movsd               ; ES, CS, SS, DS
        mov edi, 0x10000
        mov dword [edi + 0x4d0], 1 << 12
        mov eax, cr0
        mov [edi + 0x558], eax
        mov dword [edi + 0x560], 0x400
        mov dword [edi + 0x568], 0xffff0ff0
        mov dword [edi + 0x570], 2
        mov [edi + 0x578], ebx
        mov dword [edi + 0x5d8], 0x7000
        mov eax, edi
        vmrun
        mov eax, [edi + 0x70]   ; EXITCODE
        call hex
        add ebp, 16
        jmp next
done:   mov al, 10
        call put
        mov edx, 0x8900         ; ends Bochs
        mov ecx, 8
        mov esi, bye
        rep outsb
        hlt
bye:    db "Shutdown"
hex:    mov ecx, 2
        rol eax, 24
.digit: rol eax, 4
        push eax
        and al, 15
        cmp al, 10
        sbb al, 0x69
        das
        call put
        pop eax
        loop .digit
        mov al, 10
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
segments:
        dd 0x0c930010, -1, 0, 0, 0x0c9b0008, -1, 0, 0, 0x0c930010, -1, 0, 0, 0x0c930010, -1, 0, 0
gdt:    dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:   dw 23
        dd gdt
HALT    equ 1 << 24
VMRUNS  equ 1
; the guest's code; intercepts of control registers, of the first and the second word
tests:  dd plain, 0, HALT | 1 << 18, VMRUNS
        dd step, 0, HALT | 1 << 18, VMRUNS
        dd 0
step:   pushfd
        or dword [esp], 1 << 8
        popfd
plain:  cpuid
        hlt
trap:   mov al, '!'
        call put
        iretd
idtr:   dw 15
        dd 0x1000
        times 0xfff0 - ($ - $$) db 0xff
        bits 16
        jmp 0xf000:0
        times 0x10000 - ($ - $$) db 0xff
END
inside old nasm -f bin -o "$work/rom.bin" "$work/rom.asm"
what="exit code of CPUID, and once more in a single step"
check "Bochs 2.7: $what" "72 !72" "$(codes old)"
check "Bochs 3.0: $what" "72 !72" "$(codes new)"
check "Bochs 3.1: $what" "72 !72" "$(codes newest)"
exit $failed
