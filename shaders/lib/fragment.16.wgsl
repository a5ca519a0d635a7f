// A subgroup's fragments where the device's matrix units are 16 x 16 x 16.
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;
