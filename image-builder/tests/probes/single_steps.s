# RFLAGS.TF over WRMSR that sends an interrupt to its own vCPU, and over HLT: the #DB behind each comes, and so does the interrupt.
    .include "prelude.inc"

main:
    gate 1, on_debug
    gate 0x40, on_interrupt
    mov ecx, 0x83f
    mov eax, 0x40
    xor edx, edx
    sti
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    wrmsr
behind_wrmsr:
    nop
    pushfq
    and qword ptr [rsp], ~0x100
    popfq
    nop
    cmp r12d, 1
    jne no_step
    cmp r13d, 1
    jne no_interrupt
    cli
    pushfq
    or qword ptr [rsp], 0x100
    popfq
    hlt
behind_hlt:
    nop
    pushfq
    and qword ptr [rsp], ~0x100
    popfq
    nop
    cmp r12d, 2
    jne no_step_of_hlt
    finish "each step is there"
no_step:
    finish "the step over WRMSR is lost"
no_interrupt:
    finish "the interrupt is lost"
no_step_of_hlt:
    finish "the step over HLT is lost"

on_debug:
    lea r14, [rip + behind_wrmsr]
    cmp [rsp], r14
    je 1f
    lea r14, [rip + behind_hlt]
    cmp [rsp], r14
    jne 2f
1:  inc r12d
2:  iretq
on_interrupt:
    push rax
    push rcx
    push rdx
    inc r13d
    mov ecx, 0x80b
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
    iretq
