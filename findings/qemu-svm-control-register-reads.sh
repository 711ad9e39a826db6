#!/usr/bin/env bash
# QEMU 10.0.13 and 11.1.3, own emulation (TCG), SVM: a read of CR4 is tested against the intercept of reads of CR0.
# With only the CR4-read intercept set, `mov eax, cr4` makes no exit, and the guest goes on to its HLT (exit code
# 78h); with only the CR0-read intercept set, it makes one, with the code of CR0 reads (00h). Expected (APM 2 15.9 and
# appendix C), and so in QEMU 7.2: an exit with code 04h for the first, and no exit for the second.
# Seen on 2026-11-28: 7.2 prints `04 78`, 10.0.13 and 11.1.3 print `78 00`.
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

# The exit codes that a QEMU of FOLDER reports, on a line.
codes() {
  rm -f "$work/codes"
  QEMU_MODULE_DIR=$work/$1/usr/lib/x86_64-linux-gnu/qemu inside "$1" qemu-system-x86_64 -L "$work/$1/usr/share/qemu" \
    -no-user-config -nodefaults -machine pc -m 16 -display none -no-reboot -accel tcg -cpu max,+svm \
    -bios "$work/rom.bin" -debugcon file:"$work/codes" -device isa-debug-exit,iobase=0xf4 || true
  xargs <"$work/codes"
}

fetch bookworm old qemu-system-x86=1:7.2+dfsg-7+deb12u18+b3 nasm=2.16.01-1
fetch trixie new qemu-system-x86=1:10.0.13+ds-0+deb13u1
fetch sid newest qemu-system-x86=1:11.1.3+ds-1

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
done:   out 0xf4, al
.stop:  hlt
        jmp .stop
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
put:    out 0xe9, al
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
tests:  dd read, 1 << 4, HALT, VMRUNS
        dd read, 1 << 0, HALT, VMRUNS
        dd 0
read:   mov eax, cr4
        hlt
        times 0xfff0 - ($ - $$) db 0xff
        bits 16
        jmp 0xf000:0
        times 0x10000 - ($ - $$) db 0xff
END
inside old nasm -f bin -o "$work/rom.bin" "$work/rom.asm"
check "QEMU 7.2: exit codes of a CR4 read with the CR4-read intercept, and with that of CR0" "04 78" "$(codes old)"
check "QEMU 10.0.13" "78 00" "$(codes new)"
check "QEMU 11.1.3" "78 00" "$(codes newest)"
exit $failed
