#!/usr/bin/env bash
# Bochs 2.7, 3.0 and 3.1, VT-x: with external-interrupt exiting, an interrupt that becomes pending makes no VM exit
# while the guest's RFLAGS.IF is 0. A guest that sends itself an interrupt from its local APIC with IF = 0 runs on to
# its VMCALL (reason 12h). Expected (SDM 3C 26.2): with that control an external interrupt causes a VM exit (reason
# 01h), whatever RFLAGS.IF is.
# Seen on 2026-11-28: each prints `12` with IF = 0, and `01` with IF = 1.
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
cpu: model=corei7_haswell_4770, ips=1000000
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
        mov dx, 0x3fb
        mov al, 3
        out dx, al
        ; 4 MiB pages, all of them to themselves
        mov edi, 0x10000
        mov eax, 0x83
        mov ecx, 1024
.page:  stosd
        add eax, 0x400000
        loop .page
        mov eax, 0x10000
        mov cr3, eax
        mov eax, 1 << 4 | 1 << 13       ; PSE, VMXE
        mov cr4, eax
        mov eax, cr0
        or eax, 1 << 31 | 1 << 5
        mov cr0, eax
        mov esi, gdt            ; a GDT that can be written, and a busy TSS in it
        mov edi, 0x9000
        mov ecx, 16
        rep movsd
        lgdt [gdtr2]
        mov ax, 24
        ltr ax
        mov ecx, 0x3a           ; IA32_FEATURE_CONTROL
        rdmsr
        test al, 1
        jnz .on
        or al, 5
        wrmsr
.on:    mov ecx, 0x480
        rdmsr
        mov [0x12000], eax
        mov [0x13000], eax
        vmxon [region]
        mov ebp, tests
next:   cmp dword [ebp], 0
        je done
        vmclear [vmcs]
        vmptrld [vmcs]
        mov esi, fields
.field: mov edx, [esi]
        cmp edx, -1
        je .ready
        mov eax, [esi + 4]
        vmwrite edx, eax
        add esi, 8
        jmp .field
.ready: mov ecx, 0x481
        mov edx, 0x4000
        mov eax, 1              ; external-interrupt exiting
        call control
        mov ecx, 0x482
        mov edx, 0x4002
        xor eax, eax
        call control
        mov ecx, 0x483
        mov edx, 0x400c
        call control
        mov ecx, 0x484
        mov edx, 0x4012
        call control
        mov eax, cr0
        mov edx, 0x6800
        vmwrite edx, eax
        mov edx, 0x6c00
        vmwrite edx, eax
        mov eax, cr3
        mov edx, 0x6802
        vmwrite edx, eax
        mov edx, 0x6c02
        vmwrite edx, eax
        mov eax, cr4
        mov edx, 0x6804
        vmwrite edx, eax
        mov edx, 0x6c04
        vmwrite edx, eax
        mov eax, [ebp]
        mov edx, 0x681e
        vmwrite edx, eax
        mov [0x8ff0], ebp
        vmlaunch                ; VMfail: prints EE
        mov eax, 0xee
        call hex
        jmp done
exit:   mov ebp, [0x8ff0]
        mov edx, 0x4402         ; exit reason
        vmread eax, edx
        call hex
        add ebp, 4
        jmp next
control:
        push edx
        push eax
        rdmsr
        pop ebx
        or eax, ebx
        and eax, edx
        pop edx
        vmwrite edx, eax
        xor eax, eax
        ret
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
region: dq 0x12000
vmcs:   dq 0x13000
gdt:    dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x0000890090800067
        dq 0, 0, 0, 0
gdtr:   dw 63
        dd gdt
gdtr2:  dw 63
        dd 0x9000
; Field and value: selectors, the VMCS link pointer, controls, limits and rights, bases and the rest of guest and host.
fields: dd 0x800, 16, 0x802, 8, 0x804, 16, 0x806, 16, 0x808, 16, 0x80a, 16, 0x80c, 0, 0x80e, 24
        dd 0xc00, 16, 0xc02, 8, 0xc04, 16, 0xc06, 16, 0xc08, 16, 0xc0a, 16, 0xc0c, 24
        dd 0x2800, -1, 0x2801, -1
        dd 0x4004, 0, 0x400a, 0, 0x400e, 0, 0x4010, 0, 0x4014, 0, 0x4016, 0
        dd 0x4800, -1, 0x4802, -1, 0x4804, -1, 0x4806, -1, 0x4808, -1, 0x480a, -1, 0x480c, 0, 0x480e, 0x67
        dd 0x4810, 63, 0x4812, 0x3ff
        dd 0x4814, 0xc093, 0x4816, 0xc09b, 0x4818, 0xc093, 0x481a, 0xc093, 0x481c, 0xc093, 0x481e, 0xc093
        dd 0x4820, 0x10000, 0x4822, 0x8b, 0x4824, 0, 0x4826, 0, 0x482a, 0
        dd 0x6806, 0, 0x6808, 0, 0x680a, 0, 0x680c, 0, 0x680e, 0, 0x6810, 0, 0x6812, 0, 0x6814, 0x9080
        dd 0x6816, 0x9000, 0x6818, 0xa000, 0x681a, 0x400, 0x681c, 0x7000, 0x6820, 2, 0x6822, 0
        dd 0x6824, 0, 0x6826, 0
        dd 0x6c06, 0, 0x6c08, 0, 0x6c0a, 0x9080, 0x6c0c, 0x9000, 0x6c0e, 0xa000, 0x6c10, 0, 0x6c12, 0
        dd 0x6c14, 0x8000, 0x6c16, exit
        dd 0x4c00, 0, -1
; The guest's code.
tests:  dd off, on, 0
off:    mov dword [0xfee000f0], 0x1ff
        mov dword [0xfee00300], 0x44040
        nop
        nop
        vmcall
on:     sti
        mov dword [0xfee000f0], 0x1ff
        mov dword [0xfee00300], 0x44041
        nop
        nop
        vmcall
        times 0xfff0 - ($ - $$) db 0xff
        bits 16
        jmp 0xf000:0
        times 0x10000 - ($ - $$) db 0xff
END
inside old nasm -f bin -o "$work/rom.bin" "$work/rom.asm"
what="basic exit reason of an interrupt with IF = 0, with IF = 1"
check "Bochs 2.7: $what" "12 01" "$(codes old)"
check "Bochs 3.0: $what" "12 01" "$(codes new -debugger)"
check "Bochs 3.1: $what" "12 01" "$(codes newest -debugger)"
exit $failed
