# Compatibility mode: INVD and CPUID at the end of the first 4 GiB lead to address 0.
    .include "prelude.inc"
    .set LAST, 0xfffffffe

main:
    # The last 2 MiB of the first 4 GiB are the second ones of memory.
    mov rbx, 0x7ff8
    mov qword ptr [rbx], 0x200083
    mov rax, cr3
    mov cr3, rax
    mov rbx, 0x3ffffe
    mov word ptr [rbx], 0x080f
    lea rsi, [rip + at_0]
    xor edi, edi
    mov ecx, at_0_end - at_0
    rep movsb
    xor ebp, ebp
    cli
    push CODE32
    mov eax, LAST
    push rax
    retfq

    .code32
at_0:
    test ebp, ebp
    jnz 1f
    inc ebp
    mov eax, LAST
    mov word ptr [eax], 0xa20f
    jmp eax
1:  hlt
at_0_end:
    .code64
