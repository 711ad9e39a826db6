# A kernel that goes through every mode: protected mode without paging, with 32-bit paging, with PAE paging, IA-32e mode, back, real
# mode, back. In each the monitor reads its words by a string instruction, and answers CPUID; where there is paging, at linear
# addresses that are not the physical ones.
    .include "multiboot.inc"
    # Linear addresses from here on are guest-physical 0 and up.
    .set ABOVE, 0xc0000000
    .set PE, 1 << 0
    .set PG, 1 << 31
    .set PSE, 1 << 4
    .set PAE, 1 << 5
    .set EFER, 0xc0000080
    .set LME, 1 << 8
    .set CODE32, 0x08
    .set DATA32, 0x10
    .set CODE64, 0x18
    .set CODE16, 0x20
    .set DATA16, 0x28
    # A page below 1 MiB for the code of real mode.
    .set LOW, 0x8000
    .set LARGE, 1 << 7
    .set RIGHTS, 0b11

    # Leaf 4FFFFFFDh: the number of exits for CPUID so far, this one included, has to be one more than at the last look.
    .macro count
    mov eax, 0x4ffffffd
    mov ecx, 10
    cpuid
    .endm

main:
    cmp dword ptr [mark], 0x2badb002
    jne wrong
    lgdt [gdt_pointer]
    jmp CODE32:1f
1:  mov eax, DATA32
    mov ds, eax
    mov es, eax
    mov ss, eax
    say "protected mode"
    count
    mov [counted], eax

    # 32-bit paging: a directory with pages of 4 MiB.
    mov eax, LARGE | RIGHTS
    mov [directory32], eax
    mov [directory32 + 4 * (ABOVE >> 22)], eax
    mov eax, PSE
    mov cr4, eax
    mov eax, offset directory32
    mov cr3, eax
    mov eax, cr0
    or eax, PG
    mov cr0, eax
    jmp 1f
1:  say "32-bit paging", ABOVE
    count
    call another
    mov eax, cr0
    and eax, ~PG
    mov cr0, eax

    # PAE paging: one directory with a page of 2 MiB, for the first and the last GiB.
    mov eax, PAE
    mov cr4, eax
    mov dword ptr [directory], LARGE | RIGHTS
    mov eax, offset directory
    or eax, 1
    mov [pointers], eax
    mov [pointers + 8 * 3], eax
    mov eax, offset pointers
    mov cr3, eax
    mov eax, cr0
    or eax, PG
    mov cr0, eax
    jmp 1f
1:  say "PAE paging", ABOVE
    count
    call another
    mov eax, cr0
    and eax, ~PG
    mov cr0, eax

    # IA-32e mode.
    mov eax, offset directory
    or eax, RIGHTS
    mov [long_pointers], eax
    mov eax, offset long_pointers
    or eax, RIGHTS
    mov [long_top], eax
    mov eax, offset long_top
    mov cr3, eax
    mov ecx, EFER
    rdmsr
    or eax, LME
    wrmsr
    mov eax, cr0
    or eax, PG
    mov cr0, eax
    jmp CODE64:1f
    .code64
1:  say "64-bit mode"
    count
    mov esi, offset far32
    jmp fword ptr [rsi]
    .code32
from_64:
    call another
    say "compatibility mode"
    mov eax, cr0
    and eax, ~PG
    mov cr0, eax
    mov ecx, EFER
    rdmsr
    test eax, LME << 2
    jnz wrong
    and eax, ~LME
    wrmsr
    xor eax, eax
    mov cr4, eax
    say "protected mode again"

    # Real mode: through 16-bit segments.
    mov esi, offset real
    mov edi, LOW
    mov ecx, offset real_end - real
    rep movsb
    jmp CODE16:LOW
back:
    mov ecx, DATA32
    mov ds, ecx
    mov es, ecx
    mov ss, ecx
    mov esp, offset stack_end
    call another
    say "back"
    end_machine

    # One more exit for CPUID than at the last look.
another:
    mov edx, [counted]
    inc edx
    mov [counted], edx
    cmp eax, edx
    jne wrong
    ret

wrong:
    say "wrong"
    end_machine

    .code16
real:
    mov ax, DATA16
    mov ds, ax
    mov ss, ax
    mov eax, cr0
    and eax, ~PE
    mov cr0, eax
    ljmp 0, LOW + 1f - real
1:  xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, LOW
    mov si, LOW + 7f - real
    mov cx, 8f - 7f
    mov dx, COM1
    rep outsb
    count
    mov ebx, eax
    lgdt [LOW + 9f - real]
    mov eax, cr0
    or eax, PE
    mov cr0, eax
    mov eax, ebx
    .byte 0x66, 0xea
    .long back
    .word CODE32
7:  .ascii "real mode\n"
8:
    .align 4
9:  .word gdt_end - gdt - 1
    .long gdt
real_end:
    .code32

    .data
    .align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00009b000000ffff
    .quad 0x000093000000ffff
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .align 4
far32:
    .long from_64
    .word CODE32
counted:
    .long 0

    .bss
    .align 4096
directory32:
    .skip 4096
directory:
    .skip 4096
long_pointers:
    .skip 4096
long_top:
    .skip 4096
pointers:
    .skip 32
