# Each instruction that ring 3 may not use, in ring 3, under the minimal and the full profile: the exception that hardware raises.
    .include "prelude.inc"

    .macro refused vector, code:vararg
        .byte \vector
        .byte \code

        .byte 0xcc  # INT3, whose gate ring 3 may use: the instruction was executed
        .balign 8, 0xcc
    .endm
    .set ROW_BYTES, 8
    .set GP, 13
    .set UD, 6
    # INVD and WBINVD raise it, too, but on QEMU from 9.1 on, which executes them: INT3 comes then.
    .ifndef CACHES
    .set CACHES, GP
    .endif

main:
    gate 3, trapped_int3, 0xee
    gate UD, trapped_ud
    gate GP, trapped_gp
    # Ring 3 may use the first 2 MiB.
    or qword ptr [0x2000], 4
    or qword ptr [0x3000], 4
    or qword ptr [0x4000], 4
    mov rax, cr3
    mov cr3, rax
    lea rax, [rip + task]
    lea rdi, [rip + task_descriptor]
    mov word ptr [rdi], 0x67
    mov [rdi + 2], ax
    shr rax, 16
    mov [rdi + 4], al
    mov byte ptr [rdi + 5], 0x89
    mov [rdi + 7], ah
    mov ax, TASK
    ltr ax
    # XSETBV, where there is one.
    mov eax, 1
    cpuid
    bt ecx, 26
    jnc 1f
    mov rax, cr4
    bts eax, 18
    mov cr4, rax
    mov byte ptr [rip + xsetbv_row], GP
1:
    # EFER.SVME is set beneath a guest of SVM, whatever it reads, so that the processor refuses ring 3 before it exits.
    cmp byte ptr [rip + is_amd], 0
    je again
    lea rax, [rip + svm_rows]
    lea rdx, [rip + rows_end]
2:  mov byte ptr [rax], GP
    add rax, ROW_BYTES
    cmp rax, rdx
    jb 2b
again:
    lea r12, [rip + rows]
next:
    lea rsp, [rip + stack_end]
    lea rax, [rip + rows_end]
    cmp r12, rax
    jae profile_done
    push USER_DATA
    lea rax, [rip + stack_end - 4096]
    push rax
    push 2
    push USER_CODE
    lea rax, [r12 + 1]
    push rax
    mov eax, 3
    xor ecx, ecx
    xor edx, edx
    mov ebx, 1
    iretq
profile_done:
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

trapped_int3:
    mov eax, 3
    jmp trapped
trapped_ud:
    mov eax, UD
    jmp trapped
trapped_gp:
    mov eax, GP
trapped:
    cmp al, [r12]
    jne wrong
    add r12, ROW_BYTES
    jmp next
wrong:
    # Row, profile and vector as letters.
    mov ecx, eax
    lea rax, [rip + rows]
    sub r12, rax
    shr r12d, 3
    lea rdi, [rip + told]
    add [rdi + told_row], r12b
    add [rdi + told_profile], r13b
    add [rdi + told_vector], cl
    mov esi, told_end - told
    jmp finish_with

    .data
told:
    .ascii "row "
    .set told_row, . - told
    .ascii "A, profile "
    .set told_profile, . - told
    .ascii "0, vector "
    .set told_vector, . - told
    .ascii "A\n"
told_end:
    .balign 8
rows:
    refused GP, 0xf4                            # hlt
    refused CACHES, 0x0f, 0x08                  # invd
    refused CACHES, 0x0f, 0x09                  # wbinvd
    refused GP, 0x0f, 0x06                      # clts
    refused GP, 0x0f, 0x01, 0xf0                # lmsw ax
    refused GP, 0x0f, 0x20, 0xc0                # mov rax, cr0
    refused GP, 0x0f, 0x22, 0xc0                # mov cr0, rax
    refused GP, 0x0f, 0x20, 0xd8                # mov rax, cr3
    refused GP, 0x0f, 0x22, 0xd8                # mov cr3, rax
    refused GP, 0x0f, 0x20, 0xe0                # mov rax, cr4
    refused GP, 0x0f, 0x22, 0xe0                # mov cr4, rax
    refused GP, 0x44, 0x0f, 0x20, 0xc0          # mov rax, cr8
    refused GP, 0x44, 0x0f, 0x22, 0xc0          # mov cr8, rax
    refused GP, 0x0f, 0x21, 0xf8                # mov rax, dr7
    refused GP, 0x0f, 0x23, 0xf8                # mov dr7, rax
    refused GP, 0x0f, 0x32                      # rdmsr
    refused GP, 0x0f, 0x30                      # wrmsr
    refused GP, 0x0f, 0x33                      # rdpmc
    refused GP, 0x0f, 0x01, 0x3c, 0x24          # invlpg [rsp]
    refused GP, 0x0f, 0x01, 0x14, 0x24          # lgdt [rsp]
    refused GP, 0x0f, 0x01, 0x1c, 0x24          # lidt [rsp]
    refused GP, 0x0f, 0x00, 0xd0                # lldt ax
    refused GP, 0x0f, 0x00, 0xd8                # ltr ax
xsetbv_row:
    refused UD, 0x0f, 0x01, 0xd1                # xsetbv
    refused GP, 0xe4, 0x80                      # in al, 0x80
    refused GP, 0xe6, 0x80                      # out 0x80, al
    refused GP, 0x6c                            # insb
    refused GP, 0x6e                            # outsb
    refused GP, 0xfa                            # cli
    refused GP, 0xfb                            # sti
    refused GP, 0x0f, 0x01, 0xf8                # swapgs
    refused UD, 0x0f, 0x01, 0xc1                # vmcall
    refused UD, 0x0f, 0x01, 0xd9                # vmmcall
    refused UD, 0x0f, 0x01, 0xc8                # monitor
    refused UD, 0x0f, 0x01, 0xc9                # mwait
    refused UD, 0x0f, 0x37                      # getsec
    refused UD, 0x0f, 0x01, 0xc2                # vmlaunch
    refused UD, 0x0f, 0x01, 0xc3                # vmresume
    refused UD, 0x0f, 0x01, 0xc4                # vmxoff
    refused UD, 0x0f, 0x78, 0xd8                # vmread rax, rbx
    refused UD, 0x0f, 0x79, 0xd8                # vmwrite rbx, rax
    refused UD, 0x66, 0x0f, 0xc7, 0x34, 0x24    # vmclear [rsp]
    refused UD, 0x0f, 0xc7, 0x34, 0x24          # vmptrld [rsp]
    refused UD, 0xf3, 0x0f, 0xc7, 0x34, 0x24    # vmxon [rsp]
    refused UD, 0x66, 0x0f, 0x38, 0x80, 0x04, 0x24  # invept rax, [rsp]
    refused UD, 0x66, 0x0f, 0x38, 0x81, 0x04, 0x24  # invvpid rax, [rsp]
svm_rows:
    refused UD, 0x0f, 0x01, 0xd8                # vmrun
    refused UD, 0x0f, 0x01, 0xda                # vmload
    refused UD, 0x0f, 0x01, 0xdb                # vmsave
    refused UD, 0x0f, 0x01, 0xdc                # stgi
    refused UD, 0x0f, 0x01, 0xdd                # clgi
    refused UD, 0x0f, 0x01, 0xdf                # invlpga
rows_end:
