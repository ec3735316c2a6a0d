// Chooses for each parallel region whether the whole team computes it or the calling thread alone.
#pragma once
#include <algorithm>
#include <limits>

namespace cagc {

// Where other programs keep the processors busy, a team may be several times slower than one of its threads: at every
// barrier all wait for the one that is not running. So after kSlowRegions regions in a row that took kSlow times the
// least, the team rests for a while, and the caller computes alone. Then the team tries one region: it goes on if that
// takes less time than the caller alone did, and else rests for twice as long as before.
//
// It is told regions of one kind, which take about the same time on a machine that is idle otherwise.
class Pace {
 public:
  bool alone() const { return rest_ > 0; }

  // Records that a region took so many seconds, computed as alone() said.
  void took(double seconds) {
    if (alone()) {
      alone_ += seconds, regions_ += 1, rest_ -= seconds;
    } else if (regions_ > 0) {  // the first region after a rest
      const bool faster = seconds < alone_ / regions_;
      regions_ = 0;
      if (faster) least_ = seconds, slow_ = 0, next_ = kFirstRest;
      else rest();
    } else {
      least_ = std::min(least_, seconds);
      slow_ = seconds > kSlow * least_ ? slow_ + 1 : 0;
      if (slow_ == kSlowRegions) rest();
    }
  }

  static constexpr double kSlow = 1.6, kFirstRest = 0.01, kLongestRest = 0.3;  // seconds of the rests
  static constexpr int kSlowRegions = 3;

 private:
  void rest() {
    rest_ = next_, next_ = std::min(2 * next_, kLongestRest);
    alone_ = 0, regions_ = 0, slow_ = 0;
  }

  double least_ = std::numeric_limits<double>::infinity();  // seconds of a region by the team
  double rest_ = 0, next_ = kFirstRest;                     // seconds left of this rest, and of the next one
  double alone_ = 0, regions_ = 0;                          // seconds and number of this rest's regions
  int slow_ = 0;                                            // slow regions in a row
};

}  // namespace cagc
