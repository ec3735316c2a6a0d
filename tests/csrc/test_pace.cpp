// When a team rests and when it works again, by the times that it is told.
#include "../../csrc/cpu/synthesis/pace.h"
#include "check.h"

using cagc::Pace;

namespace {

// Tells `count` regions, which take `team` or `alone` seconds, and returns how many the caller computed alone.
int told(Pace &pace, int count, double team, double alone) {
  int regions = 0;
  for (int i = 0; i < count; i++) {
    const bool rests = pace.alone();
    regions += rests;
    pace.took(rests ? alone : team);
  }
  return regions;
}

}  // namespace

int main() {
  Pace idle;
  CHECK(told(idle, 1000, 1e-3, 2e-3) == 0, "a team rests on an idle machine");
  for (int i = 0; i < 1000; i++) {
    idle.took(i % 3 ? 5e-3 : 1e-3);
    CHECK(!idle.alone(), "two slow regions in a row are enough");
  }

  Pace busy;
  told(busy, 10, 1e-3, 2e-3);
  CHECK(told(busy, Pace::kSlowRegions, 5e-3, 2e-3) == 0 && busy.alone(), "slow regions do not make the team rest");
  CHECK(told(busy, 5, 5e-3, 2e-3) == 5 && !busy.alone(), "the first rest is not of 10 ms");
  const int resting = told(busy, 10000, 5e-3, 2e-3);
  CHECK(resting > 9800 && resting < 10000, "%d of 10000 regions alone", resting);
  CHECK(told(busy, 1000, 1e-3, 2e-3) < 200 && !busy.alone(), "the team does not work again on an idle machine");

  // A machine that has become slower for all: the team stays faster than the caller alone.
  Pace slower;
  told(slower, 10, 1e-3, 2e-3);
  CHECK(told(slower, 1000, 2e-3, 4e-3) < 10, "the team rests again and again where it is the faster one");
  return report("pace");
}
