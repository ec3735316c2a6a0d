// A plugin of QEMU's user emulation that counts executed instructions, and how many of them multiply and add vectors.
// It declares what it uses of the interface (version 1), for which distributions have no header.
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

struct qemu_plugin_tb;
struct qemu_plugin_insn;
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*call)(uint64_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_atexit_cb(uint64_t id, void (*call)(uint64_t id, void *data), void *data);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *, int add, void *counter, uint64_t by);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
char *qemu_plugin_insn_disas(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;
static uint64_t all, products;

static void translated(uint64_t id, struct qemu_plugin_tb *block) {
  (void)id;
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
    char *text = qemu_plugin_insn_disas(instruction);
    qemu_plugin_register_vcpu_insn_exec_inline(instruction, 0, &all, 1);
    if (text && (!strncmp(text, "fmla", 4) || !strncmp(text, "mulps", 5)))
      qemu_plugin_register_vcpu_insn_exec_inline(instruction, 0, &products, 1);
    free(text);
  }
}

static void ended(uint64_t id, void *data) {
  (void)id, (void)data;
  fprintf(stderr, "counted %" PRIu64 " %" PRIu64 "\n", all, products);
}

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
  (void)info, (void)argc, (void)argv;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, ended, NULL);
  return 0;
}
