#!/usr/bin/env bash
# QEMU, own emulation (TCG): ring 3 may execute INVD and WBINVD in 10.0.13 and 11.1.3. Expected (SDM 2A, 2D; APM 3): #GP, as
# in 7.2.
# Seen on 2026-11-29, vectors of the exception behind each: 7.2 prints `0D 0D` (#GP), 10.0.13 and 11.1.3 print `03 03`, which is the
# INT3 behind the instruction.
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

# The vectors that a QEMU of FOLDER reports, on a line.
vectors() {
  rm -f "$work/vectors"
  QEMU_MODULE_DIR=$work/$1/usr/lib/x86_64-linux-gnu/qemu inside "$1" qemu-system-x86_64 -L "$work/$1/usr/share/qemu" \
    -no-user-config -nodefaults -machine pc -m 16 -display none -no-reboot -accel tcg -cpu max \
    -bios "$work/rom.bin" -debugcon file:"$work/vectors" -device isa-debug-exit,iobase=0xf4 || true
  xargs <"$work/vectors"
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
        mov dword [0x9004], 0x8000      ; the TSS: ESP0 and SS0
        mov dword [0x9008], 16
        mov ax, 40
        ltr ax
        mov edi, 0xa000                 ; the IDT: 3, which ring 3 may use, and 13
        mov dword [edi + 3 * 8], 0x00080000 | (three - start)
        mov dword [edi + 3 * 8 + 4], 0x000fee00
        mov dword [edi + 13 * 8], 0x00080000 | (thirteen - start)
        mov dword [edi + 13 * 8 + 4], 0x000f8e00
        lidt [idtr]
        mov ebp, tests
next:   mov ebx, [ebp]
        add ebp, 4
        test ebx, ebx
        jz done
        mov esp, 0x8000
        push 32 | 3                     ; SS, ESP, EFLAGS, CS, EIP of ring 3
        push 0x7000
        push 2
        push 24 | 3
        push ebx
        iret
three:  mov eax, 3
        jmp taken
thirteen:
        mov eax, 13
taken:  call hex
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
        out 0xe9, al
        pop eax
        loop .digit
        mov al, 10
        out 0xe9, al
        ret
invalidate:
        invd
        int3
write_back:
        wbinvd
        int3
tests:  dd invalidate, write_back, 0
        align 8
gdt:    dq 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x0000890090000067
gdtr:   dw 47
        dd gdt
idtr:   dw 0x7f
        dd 0xa000
        times 0xfff0 - ($ - $$) db 0xff
        bits 16
        jmp 0xf000:0
        times 0x10000 - ($ - $$) db 0xff
END
inside old nasm -f bin -o "$work/rom.bin" "$work/rom.asm"
what="vectors behind INVD and WBINVD in ring 3"
check "QEMU 7.2: $what" "0D 0D" "$(vectors old)"
check "QEMU 10.0.13: $what" "03 03" "$(vectors new)"
check "QEMU 11.1.3: $what" "03 03" "$(vectors newest)"
exit $failed
