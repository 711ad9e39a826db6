# vCPU 1 in real mode: #GP comes without an error code, OUTSB finds its byte without page tables, and EFER.LME alone does nothing.
    .include "prelude.inc"
    .set AT, 0x8000
    .set NOTES, 0x8f00
    .set ALL_DONE, 0x1b
    .set EFER, 0xc0000080
    .set LME, 0x100

main:
    # The real-mode vectors of #GP and #PF.
    mov dword ptr [13 * 4], AT + on_gp - there
    mov dword ptr [14 * 4], AT + on_pf - there
    lea rsi, [rip + there]
    mov edi, AT
    mov ecx, there_end - there
    rep movsb
    mov byte ptr [NOTES], 0
    # INIT and start-up IPI to vCPU 1.
    mov ecx, 0x830
    mov edx, 1
    mov eax, 0x4500
    wrmsr
    mov eax, 0x4600 | AT >> 12
    wrmsr
    mov ecx, 1000000
1:  pause
    cmp byte ptr [NOTES], 0x10
    jae 2f
    dec ecx
    jnz 1b
    finish "vCPU 1 is not seen"
2:  test byte ptr [NOTES], 1
    jz no_gp
    test byte ptr [NOTES], 2
    jz no_outsb
    test byte ptr [NOTES], 8
    jz no_lme
    cmp byte ptr [NOTES], ALL_DONE
    jne page_fault
    finish "as in real mode"
no_gp:
    finish "#GP has not come as it should"
no_outsb:
    finish "OUTSB has not gone on"
no_lme:
    finish "EFER.LME does not stay"
page_fault:
    finish "#PF without paging"

    .code16
    .balign 16
there:
    cli
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov sp, 0x7000
    mov ecx, 0x277
at_rdmsr:
    rdmsr
    mov si, NOTES
    mov dx, 0x80
    outsb
    or byte ptr [NOTES], 2
    # Before CR4.PAE; then exits that have nothing to do with it.
    mov ecx, EFER
    rdmsr
    or eax, LME
    wrmsr
    xor eax, eax
    cpuid
    mov ecx, EFER
    rdmsr
    test eax, LME
    jz over
    or byte ptr [NOTES], 8
over:
    or byte ptr [NOTES], 0x10
    cli
1:  hlt
    jmp 1b
on_gp:
    mov bp, sp
    cmp word ptr [bp], at_rdmsr - there + AT
    je 1f
    cmp word ptr [bp], at_rdmsr - there
    jne over_here
1:  or byte ptr [NOTES], 1
    add word ptr [bp], 2
    iret
over_here:
    jmp over
on_pf:
    or byte ptr [NOTES], 4
    jmp over
there_end:
    .code64
