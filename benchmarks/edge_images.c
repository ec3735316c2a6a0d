/* Draws COUNT images of a student, of seeds 0, 1, ..., as float32:  edge_images STUDENT.cagc COUNT OUT.f32 */
#include <cagc/c_api.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  cagc_generator *g = cagc_open(argv[1], 1);
  FILE *out = fopen(argv[3], "wb");
  if (!g || !out) return fprintf(stderr, "%s\n", g ? argv[3] : cagc_last_error()), 1;
  fprintf(stderr, "%s\n", cagc_plan(g));
  const size_t z_dim = cagc_z_dim(g), bytes = cagc_image_bytes(g, CAGC_FLOAT32);
  float *z = malloc(z_dim * sizeof(float)), *image = malloc(bytes);
  float *ws = malloc((size_t)cagc_num_ws(g) * cagc_w_dim(g) * sizeof(float));
  if (!z || !image || !ws) return 1;
  const uint32_t count = (uint32_t)atoi(argv[2]);
  for (uint32_t seed = 0; seed < count; seed++) {
    cagc_random(seed, z_dim, z);
    if (cagc_map(g, z, 1, 1.f, -1, ws) || cagc_synthesize(g, ws, 1, CAGC_NOISE_CONST, 0, CAGC_FLOAT32, image, NULL, 0))
      return fprintf(stderr, "%s\n", cagc_last_error()), 1;
    fwrite(image, 1, bytes, out);
  }
  free(ws), free(image), free(z), cagc_close(g);
  return fclose(out) != 0;
}
