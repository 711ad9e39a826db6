# Three NMIs to itself: one, another behind its handler, and one that is sent in a handler and has to wait for its IRET.
    .include "prelude.inc"

main:
    gate 2, on_nmi
    call send
    nop
    cmp ebx, 1
    jne lost
    mov r12d, 1
    call send
    nop
    nop
    cmp ebx, 3
    jne lost
    cmp r14d, 1
    jne nested
    finish "all three came, one after the other"
lost:
    finish "an NMI is lost"
nested:
    finish "an NMI came into the handler of another"

send:
    mov ecx, 0x830
    mov eax, 0x44400
    xor edx, edx
    wrmsr
    ret
on_nmi:
    inc ebx
    inc r13d
    cmp r13d, r14d
    cmova r14d, r13d
    test r12d, r12d
    jz 1f
    xor r12d, r12d
    call send
    nop
1:  dec r13d
    iretq
