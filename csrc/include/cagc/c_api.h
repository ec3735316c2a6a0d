/* The C interface of the runtime (C99): opens a flat student file, maps latents and draws images, on the CPU, without
 * Python or PyTorch. docs/edge.md describes the file and shows programs.
 *
 * Functions that can fail return CAGC_OK or the kind of error; those that return a pointer return NULL. The message is
 * then in cagc_last_error(). No C++ exception leaves these functions. All numbers are float32, row by row (C order),
 * and the caller owns every buffer that it passes. A generator may be used by one thread at a time; different
 * generators are independent. Wherever a `count` of images is passed, 0 is valid and does nothing. */
#ifndef CAGC_C_API_H
#define CAGC_C_API_H

#include <stddef.h>
#include <stdint.h>

#if defined(CAGC_BUILDS_SHARED)
#define CAGC_API __attribute__((visibility("default")))
#else
#define CAGC_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a function changes in a way that a compiled program would notice. */
#define CAGC_API_VERSION 1

/* The version of the flat file that this header describes: older and newer ones are refused. */
#define CAGC_FILE_VERSION 1

typedef struct cagc_generator cagc_generator;

typedef enum cagc_status {
  CAGC_OK = 0,
  CAGC_ARGUMENT = 1,     /* an argument is out of its range, or a buffer too small */
  CAGC_FILE = 2,         /* the file cannot be read, is damaged or truncated */
  CAGC_UNSUPPORTED = 3,  /* another version or architecture, or the file lacks what was asked for */
  CAGC_MEMORY = 4        /* no memory */
} cagc_status;

/* Noise that is added to the activations. */
typedef enum cagc_noise {
  CAGC_NOISE_NONE = 0,
  CAGC_NOISE_CONST = 1, /* the maps in the file; CAGC_UNSUPPORTED if cagc_has_noise() is 0 */
  CAGC_NOISE_SEEDED = 2 /* normal deviates of the seed, other ones for each image of a call */
} cagc_noise;

typedef enum cagc_pixels {
  CAGC_FLOAT32 = 0, /* float [3, resolution, resolution], about -1 to 1, not clamped */
  CAGC_RGBA8 = 1    /* uint8_t [resolution, resolution, 4]: clamped to -1..1, mapped to 0..255, alpha 255 */
} cagc_pixels;

/* "MAJOR.MINOR.PATCH" of the library; CAGC_API_VERSION that it was built with. */
CAGC_API const char *cagc_version(void);
CAGC_API int32_t cagc_api_version(void);

/* What the last failed call of this thread says, one line "name: got X, expected Y"; "" if none has failed. Valid until
 * the thread's next failure. */
CAGC_API const char *cagc_last_error(void);
CAGC_API cagc_status cagc_last_status(void);

/* Opens a flat student file. The weights are copied: `data` may be freed, and the file changed, when it returns.
 * `threads`: at least 1, see cagc_set_threads. Returns NULL on failure. */
CAGC_API cagc_generator *cagc_open(const char *path, int32_t threads);
CAGC_API cagc_generator *cagc_open_memory(const void *data, size_t bytes, int32_t threads);

/* Frees the generator; NULL is valid. */
CAGC_API void cagc_close(cagc_generator *generator);

/* Sizes. z: [z_dim]; ws: [num_ws, w_dim]; an image: 3 colours, resolution by resolution. */
CAGC_API int32_t cagc_z_dim(const cagc_generator *generator);
CAGC_API int32_t cagc_w_dim(const cagc_generator *generator);
CAGC_API int32_t cagc_num_ws(const cagc_generator *generator);
CAGC_API int32_t cagc_resolution(const cagc_generator *generator);
CAGC_API size_t cagc_image_bytes(const cagc_generator *generator, cagc_pixels pixels);

/* 1 or 0: whether the file carries the mapping network, and the noise maps of CAGC_NOISE_CONST. */
CAGC_API int32_t cagc_has_mapping(const cagc_generator *generator);
CAGC_API int32_t cagc_has_noise(const cagc_generator *generator);

/* The mean of w, [w_dim], in the generator's memory. */
CAGC_API const float *cagc_w_avg(const cagc_generator *generator);

/* Bytes of packed weights, without the workspace; the algorithm of each convolution, for people. */
CAGC_API size_t cagc_weight_bytes(const cagc_generator *generator);
CAGC_API const char *cagc_plan(const cagc_generator *generator);

/* How many threads a call computes with, the caller's included, from 1 to 64. Where the library was built without
 * threads, only 1 is valid. Changes what cagc_workspace_bytes() returns. */
CAGC_API cagc_status cagc_set_threads(cagc_generator *generator, int32_t threads);
CAGC_API int32_t cagc_threads(const cagc_generator *generator);

/* Fills `values` with `count` standard normal deviates, the same for a seed on every platform to within rounding. */
CAGC_API cagc_status cagc_random(uint32_t seed, size_t count, float *values);

/* z [count, z_dim] -> ws [count, num_ws, w_dim], with truncation: the first `cutoff` of the num_ws become
 * w_avg + psi * (w - w_avg); cutoff < 0: all of them. CAGC_UNSUPPORTED where the file has no mapping network. */
CAGC_API cagc_status cagc_map(cagc_generator *generator, const float *z, size_t count, float psi, int32_t cutoff,
                              float *ws);

/* ws [count, num_ws, w_dim] -> images, one behind the other, cagc_image_bytes() each. `seed` is read with
 * CAGC_NOISE_SEEDED only. `workspace`: cagc_workspace_bytes() that begin at a multiple of 64, whose contents do not
 * matter before or after; or NULL with 0 bytes: the generator allocates its own at the first such call and keeps it. */
CAGC_API cagc_status cagc_synthesize(cagc_generator *generator, const float *ws, size_t count, cagc_noise noise,
                                     uint32_t seed, cagc_pixels pixels, void *images, void *workspace,
                                     size_t workspace_bytes);
CAGC_API size_t cagc_workspace_bytes(const cagc_generator *generator);

/* Named edit directions: an edit of strength s adds s * scale * vector to w, where the scale is one standard deviation
 * of w. NULL, and 0 as the scale, for an index out of range. The vector is [w_dim], in the generator's memory. */
CAGC_API int32_t cagc_direction_count(const cagc_generator *generator);
CAGC_API const char *cagc_direction_name(const cagc_generator *generator, int32_t index);
CAGC_API float cagc_direction_scale(const cagc_generator *generator, int32_t index);
CAGC_API const float *cagc_direction(const cagc_generator *generator, int32_t index);

/* ws [count, num_ws, w_dim] += strength * scale * vector in layers [first, last), counted from 0; last < 0: to the
 * end. */
CAGC_API cagc_status cagc_edit(const cagc_generator *generator, int32_t index, float strength, int32_t first,
                               int32_t last, float *ws, size_t count);

/* What else the file carries, in the generator's memory, NULL if it carries none: the licence of the weights as text,
 * and a sheet of thumbnails as the bytes of a PNG or JPEG file. */
CAGC_API const char *cagc_licence(const cagc_generator *generator);
CAGC_API const void *cagc_thumbnails(const cagc_generator *generator, size_t *bytes);

#ifdef __cplusplus
}
#endif

#endif
