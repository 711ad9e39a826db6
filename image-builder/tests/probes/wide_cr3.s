# MOV to CR3 with a bit beyond the physical-address width, under the minimal and the full profile: #GP(0), and nothing is written.
    .include "prelude.inc"
    .set GP, 13

main:
    gate GP, refused
again:
    mov r15, cr3
    mov rbx, r15
    bts rbx, 62
attempt:
    mov cr3, rbx
    finish "it is executed"

refused:
    cmp qword ptr [rsp], 0
    jne wrong
    lea rax, [rip + attempt]
    cmp [rsp + 8], rax
    jne wrong
    lea rsp, [rip + stack_end]
    mov rax, cr3
    cmp rax, r15
    jne wrong
    inc r13d
    cmp r13d, 2
    je right
    mov eax, BEGIN
    mov rdi, PROFILE_ONLY
    mov esi, FULL
    call hypercall
    jmp again
right:
    finish "each is refused"
wrong:
    finish "the exception is another"
