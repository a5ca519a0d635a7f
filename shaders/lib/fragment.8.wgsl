// A subgroup's fragments where the device's matrix units are 8 x 8 x 8.
alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;
